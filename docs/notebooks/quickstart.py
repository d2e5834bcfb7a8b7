# %% [markdown]
# # Quickstart
#
# Train a small masked diffusion model on the State of the Union addresses, which come with the
# package. Then measure how well it predicts held-out text, draw samples, watch one being made, and
# fill in blanks. A few minutes on two CPU cores.

# %%
import os

import matplotlib.pyplot as plt

import ddlm

# Steps of training; fewer than 100 are a trial run.
STEPS = int(os.environ.get("DDLM_NOTEBOOK_STEPS", 600))
TRIAL = STEPS < 100

# %% [markdown]
# ## The experiment
#
# An experiment is a process (here masks), a network, a text and how it is trained. Everything has
# its settings in its docstring, such as `help(ddlm.Transformer)`. For your own text write
# `ddlm.Text("my.txt", ddlm.Characters(), length=128)`.

# %%
experiment = ddlm.Experiment(
    ddlm.MDLM(schedule=ddlm.MDLMCosine()),
    ddlm.Transformer(
        num_layers=1 if TRIAL else 4,
        width=16 if TRIAL else 128,
        num_heads=2 if TRIAL else 4,
        qk_norm=True,
        attention_bias="near",
        rotary_base=100.0,
    ),
    ddlm.Text(length=32 if TRIAL else 128),
    optimizer=ddlm.Muon(
        ddlm.LinearDecay(peak_lr=7e-3, warmup_steps=STEPS // 12, decay_steps=STEPS), beta2=0.99
    ),
    train=ddlm.Train(
        num_steps=STEPS,
        batch_size=16,
        ema_decay=0.99,
        time_weight=ddlm.Tempered(power=0.5),
        log_every=max(1, STEPS // 30),
        eval_every=STEPS // 3,
        checkpoint_every=STEPS // 3,
    ),
    evaluation=ddlm.Evaluation(num_times=2, batch_size=64, max_sequences=16 if TRIAL else 256),
)


def log(line):
    """Prints the evaluations, without the lines of losses between them."""
    if "validation bound" in line:
        print(line)


run = ddlm.train(experiment, "runs/quickstart-notebook", log)
print(run)

# %% [markdown]
# The run is kept in `runs/quickstart-notebook`. The same call goes on where it was interrupted, and
# gives the finished run back at once. The loss of each batch is noisy, since times and masks are
# drawn at random; the bound on held-out text is not.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
metrics = run.metrics()
left.plot(*metrics["train/loss_nats_per_token"])
left.set(xlabel="step", ylabel="training loss, nats per token")
right.plot(*metrics["eval/bound_bits_per_char"], "o-")
right.set(xlabel="step", ylabel="validation bound, bits per character")
plt.show()

# %% [markdown]
# ## The bound
#
# A diffusion model does not give the likelihood itself but a bound: the true number of bits per
# character is this or less. The standard error is over the sequences of the held-out text. Uniform
# letters cost log2(27) = 4.75 bits, letters by their frequency 4.09, and a trigram model 2.61.

# %%
record = run.evaluate("test", 16 if TRIAL else 512, log=lambda line: None)
print(
    f"{record['value']:.3f} +- {record['standard_error']:.3f} {record['unit']} ({record['kind']})"
)
assert 1 < record["value"] < 6

# %% [markdown]
# ## Samples
#
# Sampling begins with masks alone and reveals some tokens in each step. A step draws its tokens
# independently of each other, so more steps give better text.

# %%
for steps in (4, 32):
    print(f"{steps} steps")
    for text in run.sample(2, prompt="the state of ", steps=steps):
        print("  ", text)

# %% [markdown]
# ## A text being made
#
# One sample, from the start to the end; each dot is a mask.

# %%
frames = run.frames(".", prompt="the ", steps=8)
print("\n".join(frames))
assert "." not in frames[-1]

# %% [markdown]
# ## Known tokens anywhere
#
# A masked model sees both sides of a blank. Each `_` stands for one character.

# %%
template = "we ____ the ______ of"
for text in run.fill(template, num=4, steps=10):
    print(text)
    assert all(a in ("_", b) for a, b in zip(template, text, strict=True))

# %% [markdown]
# The likelihood of any text, in bits per character, is a bound too. English is cheaper than the
# same letters shuffled.

# %%
for text in ("the people of the united states", "ttsate eh oede pdnfo uehlpt iets"):
    print(f"{text}: {run.log_likelihood(text).bits_per_character:.2f}")

# %% [markdown]
# Next: [your first process](first_process.ipynb), or [which sampler to
# take](sampler_frontier.ipynb).
