# %% [markdown]
# # The frontier of samplers
#
# More calls of the network give better text. How much better depends on the sampler, and "better"
# has more than one side: text that repeats itself scores well under a language model. Here is one
# trained model, several samplers at several numbers of steps, and both sides, drawn.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt

import ddlm
from configs.sotu import quickstart

# Steps of training; fewer than 100 are a trial run.
STEPS = int(os.environ.get("DDLM_NOTEBOOK_STEPS", 600))
TRIAL = STEPS < 100

# %% [markdown]
# ## The model
#
# That of the [quickstart](quickstart.ipynb), if its run is there; else
# `configs/sotu/quickstart.py`, trained for fewer steps.

# %%
changes = [f"train.num_steps={STEPS}", f"optimizer.schedule.decay_steps={STEPS}"]
if TRIAL:
    changes += ["model.num_layers=1", "model.width=16", "model.num_heads=2", "data.length=32"]
    changes += ["optimizer.schedule.warmup_steps=1", "evaluation.max_sequences=16"]
experiment = ddlm.override(quickstart.get_config(), changes)
if Path("runs/quickstart-notebook").is_dir():
    run = ddlm.load("runs/quickstart-notebook")
else:
    run = ddlm.train(experiment, "runs/sampler-frontier", lambda line: None)
record = run.evaluate("test", 16 if TRIAL else 512, log=lambda line: None)
print(f"bound {record['value']:.3f} +- {record['standard_error']:.3f} bits per character")

# %% [markdown]
# ## The samplers
#
# - `Ancestral` is the process's own way: each step reveals tokens at random places.
# - `Ancestral` with the grid "cosine" reveals few tokens at first, when little is known.
# - `Unmask order=confidence` reveals first what the network is most sure of.
# - `ReMDM` masks some revealed tokens again, so that mistakes can be mended.
#
# [Samplers](../samplers.md) lists all with what they are exact for.

# %%
SAMPLERS = ["Ancestral", "Ancestral grid=cosine", "Unmask order=confidence", "ReMDM"]
COUNTS = [4] if TRIAL else [8, 16, 32, 64]
NUM = 4 if TRIAL else 32
samples = {
    (sampler, steps): run.sample(NUM, NUM, sampler=sampler, steps=steps)
    for sampler in (SAMPLERS[::2] if TRIAL else SAMPLERS)
    for steps in COUNTS
}

# %% [markdown]
# ## Quality
#
# `run.quality` measures all groups at once, with as much real text beside them: bits per character
# under trigrams of the training text (an autoregressive run is a better judge: `scorer=`), the
# entropy of characters within a text, which is low where it repeats itself, and the share of words
# that the training text has.

# %%
rows = run.quality(samples)
MEASURES = {
    "scorer_bits_per_character": "bits per character under trigrams",
    "entropy_within_text_bits": "entropy of a character within a text, bits",
    "words_in_training_text": "share of words in the training text",
}
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
for axis, (name, label) in zip(axes, MEASURES.items(), strict=True):
    for sampler in dict.fromkeys(sampler for sampler, _ in samples):
        found = [(samples[sampler, n].calls.mean(), rows[sampler, n][name]) for n in COUNTS]
        axis.plot(*zip(*found, strict=True), "o-", label=sampler)
    axis.axhline(rows["real text"][name], color="k", linestyle=":", label="real text")
    axis.set_xscale("log", base=2)
    axis.set(xlabel="calls of the network", ylabel=label, xticks=COUNTS, xticklabels=COUNTS)
axes[1].set_ylim(3, 4.5)
axes[0].legend(fontsize="small")
plt.show()

# %%
for (sampler, steps), texts in samples.items():
    if steps == COUNTS[-1]:
        print(f"{sampler}: {texts[0]}")

# %% [markdown]
# All samplers gain from more calls, and none of them repeats itself here: the entropy is that of
# real text. Few tokens at first, or mending, seems to help where calls are few, and revealing what is
# most certain first is worse for this small model. These are few samples, without errors. Look at
# your own: the order of samplers depends on the model, and on the judge.
