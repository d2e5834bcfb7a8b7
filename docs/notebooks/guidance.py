# %% [markdown]
# # Guidance
#
# Samples of a chosen kind, in two ways. Classifier-free: a network that was trained with and
# without labels, and is pushed away from what it says without. By a classifier: another network,
# which tells the label of noisy text, pushes a network that knows of none. We measure how often a
# sample has what its label promises, and what that costs in diversity: for one topic and one seed,
# with lengths of training and strengths that were chosen so that both can be seen.

# %%
import os
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import ddlm

# Steps of training; fewer than 100 are a trial run.
STEPS = int(os.environ.get("DDLM_NOTEBOOK_STEPS", 1000))
TRIAL = STEPS < 100

# %% [markdown]
# ## Text whose label can be checked
#
# Four topics with five words each. In a text of a topic one word in four is of its topic, one in
# ten of any other topic, the rest are words that all share. So a short text hints at its topic, and
# no more. Labels are folders: `Text` gives each text the name of its folder.

# %%
SHARED = ["the", "of", "and", "to", "in", "that", "it", "we", "for", "on"]
TOPICS = {
    "farm": ["corn", "barn", "seed", "plow", "herd"],
    "law": ["court", "judge", "vote", "bill", "oath"],
    "sea": ["ship", "wave", "port", "sail", "fish"],
    "war": ["army", "fort", "gun", "siege", "flag"],
}
TOPIC_OF = {word: topic for topic, words in TOPICS.items() for word in words}
rng = np.random.default_rng(0)
for topic, words in TOPICS.items():
    others = [word for word in TOPIC_OF if word not in words]
    p = [0.25 / 5] * 5 + [0.1 / 15] * 15 + [0.65 / 10] * 10
    folder = Path("guidance-text") / topic
    folder.mkdir(parents=True, exist_ok=True)
    text = " ".join(rng.choice([*words, *others, *SHARED], size=20_000, p=p))
    (folder / "text.txt").write_text(text)
    print(f"{topic}: {text[:60]}")

# %% [markdown]
# ## Two networks
#
# Labels enter a network beside the time. One text in five is trained without its label
# (`label_dropout`), so that the same network knows both distributions. The classifier learns from
# text with the same noise.

# %%
data = ddlm.Text("guidance-text", length=48, labels="folder")
sizes = dict(
    num_layers=1 if TRIAL else 2,
    width=16 if TRIAL else 64,
    num_heads=2,
    condition_width=8 if TRIAL else 64,
    time_conditioning=True,
    qk_norm=True,
    attention_bias="near",
)
experiment = ddlm.Experiment(
    ddlm.MDLM(),
    ddlm.Transformer(**sizes),
    data,
    ddlm.Ancestral(steps=4 if TRIAL else 48),
    ddlm.AdamW(ddlm.WarmupCosine(4e-3, warmup_steps=STEPS // 12, decay_steps=STEPS)),
    ddlm.Train(
        num_steps=STEPS,
        batch_size=64,
        ema_decay=0.99,
        label_dropout=0.2,
        log_every=max(1, STEPS // 20),
        eval_every=STEPS // 2,
        checkpoint_every=STEPS // 2,
    ),
    ddlm.Evaluation(num_times=2, max_sequences=16 if TRIAL else 256),
)
run = ddlm.train(experiment, "runs/guidance", lambda line: None)
for labels in (True, False):
    asked = ddlm.load("runs/guidance", changes=[f"evaluation.labels={labels}"])
    record = asked.evaluate("test", 16 if TRIAL else None, 8, log=lambda line: None)
    print(
        f"labels given: {labels}, {record['value']:.3f} +- {record['standard_error']:.3f}", end=" "
    )
    print("bits per character")

# %%
classifier = replace(
    experiment,
    process=ddlm.NoisyClassifier(ddlm.MDLM()),
    model=ddlm.Classifier(**sizes),
    train=replace(experiment.train, label_dropout=0.0),
)
ddlm.train(classifier, "runs/guidance-classifier", lambda line: None)

# %% [markdown]
# ## Strength
#
# Strength 0 is no guidance. Of classifier-free guidance, strength 1 is the network with its label,
# and more exaggerates. Of the classifier, strength 1 would be Bayes' rule, if its gradient told
# what a whole change of a token does to the label. It tells little of that (to ask the classifier
# about each change, `exact=True`, costs 48 x 27 calls a step), so its strengths are far larger.

# %%
TOPIC = "sea"
NUM = 4 if TRIAL else 256  # samples
STRENGTHS = {"classifier-free": [0, 1, 2, 3, 4], "classifier": [0, 8, 32, 128, 512]}
if TRIAL:
    STRENGTHS = {"classifier-free": [2], "classifier": [32]}


WORDS = {*SHARED, *TOPIC_OF}
MEASURES = (
    "share of samples of the topic",
    "share of right words",
    "entropy of a right word, bits",
)


def measure(texts):
    """MEASURES of texts: a sample is of the topic if more of its words are than of all others; a right
    word is one of the 30."""
    topics = [[TOPIC_OF.get(word) for word in text.split()] for text in texts]
    own = np.array([found.count(TOPIC) for found in topics])
    others = np.array([len(found) - found.count(None) for found in topics]) - own
    words = [word for text in texts for word in text.split()[1:-1]]  # the ends may cut one
    right = [word for word in words if word in WORDS]
    share = np.unique(right, return_counts=True)[1] / max(1, len(right))
    return (own > others).mean(), len(right) / max(1, len(words)), -(share * np.log2(share)).sum()


rows = {}
for kind, strengths in STRENGTHS.items():
    options = {"classifier": "runs/guidance-classifier"} if kind == "classifier" else {}
    for strength in strengths:
        texts = run.sample(NUM, NUM, label=TOPIC, guidance=float(strength), **options)
        rows.setdefault(kind, []).append(measure(texts))
        print(f"{kind}, {strength}: {texts[0]}")

# %% [markdown]
# Drawn, with real text in pieces of the same length beside it:

# %%
text = (Path("guidance-text") / TOPIC / "text.txt").read_text()
real = measure([text[k : k + 48] for k in range(0, 48 * 1000, 48)])
figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
for k, (axis, title) in enumerate(zip(axes, MEASURES, strict=True)):
    for kind, found in rows.items():
        axis.plot(STRENGTHS[kind], np.array(found)[:, k], "o-", label=kind)
    axis.axhline(real[k], color="k", linestyle=":", label="real text")
    axis.set(xlabel="strength of guidance", ylabel=title, xscale="symlog", xlim=(-0.3, 1000))
axes[2].legend()
plt.show()
if not TRIAL:
    assert rows["classifier-free"][2][0] > rows["classifier-free"][0][0] + 0.2
    assert rows["classifier-free"][-1][2] < rows["classifier-free"][0][2]

# %% [markdown]
# Classifier-free guidance of strength 2 has about as many samples of the topic as real text,
# strength 4 more than real text. It pays twice: fewer words are right, and those that are right are
# less diverse. The gradient of the classifier goes half as far, at strengths of hundreds, and costs
# right words too. So where you can train with labels, do.
#
# Labels of your own text are folders as well: see [data](../guide/data.md) and [guided
# samples](../guide/sampling.md).
