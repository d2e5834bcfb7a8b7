# %% [markdown]
# # Your first process
#
# A diffusion process says how text becomes noise and what a network must learn to undo it. A new
# one is a class of about 40 lines; training, evaluation and the samplers that fit then work with
# it. This one masks the right end of the text first, so that text is made roughly from left to
# right. We prove its bound by enumeration, and train it beside MDLM.

# %%
import os
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ddlm
from diffusion.chains import Interpolation, interpolation
from diffusion.numerics import gather_last, log_one_hot

# Steps of training; fewer than 100 are a trial run.
STEPS = int(os.environ.get("DDLM_NOTEBOOK_STEPS", 400))
TRIAL = STEPS < 100
LENGTH = 32

# %% [markdown]
# ## The mathematics
#
# The token at position i is masked at time t with probability t^k_i, where 0 is data and 1 is
# noise. The power k_i falls from `spread` at the left end to 1 / `spread` at the right end: a high
# power keeps a token for long. `spread` 1 is MDLM with its linear schedule.
#
# Time t of this process is time t^k_i of MDLM at position i. So everything that MDLM knows of a
# single position, kept in its `chain`, is used at times of its own. The bound of a masked process
# weighs a masked token by the rate at which its chance to be masked grows, (d/dt) t^k / t^k = k /
# t:
#
#     -log p(x0) <= E_t sum over masked i of (k_i / t) * -log p(x0_i | z_t)

# %%


@dataclass(frozen=True)
class LeftFirst(ddlm.MarkovProcess):
    """Position i is masked at time t with probability t^k_i, k from spread to 1 / spread."""

    vocab_size: int | None = None  # None is filled in when the data is read
    length: int = LENGTH
    spread: float = 2.0
    head: ClassVar[str] = "posterior"  # the network's output is p(x0 | z_t)
    kernel: ClassVar[ddlm.Absorbing] = ddlm.Absorbing()
    known_tokens: ClassVar[str] = "exact"  # a revealed token never changes
    likelihood: ClassVar[str] = "bound"

    @property
    def powers(self):
        return self.spread ** jnp.linspace(1, -1, self.length)[None]

    @property
    def chain(self):
        mdlm = interpolation(self.kernel, self.num_tokens, ddlm.Linear())
        return Interpolation(
            self.kernel,
            self.num_tokens,
            keep=lambda t: mdlm.keep(t**self.powers),
            step=lambda t, s: mdlm.step(t**self.powers, s**self.powers),
        )

    def predict(self, out, z, t):
        masked = (z == self.num_tokens)[..., None]
        return jnp.where(masked, jax.nn.log_softmax(out), log_one_hot(z, self.num_tokens))

    def token_loss(self, out, x0, z, t):
        nats = -gather_last(jax.nn.log_softmax(out), x0)
        return jnp.where(z == self.num_tokens, self.powers / t * nats, 0)


# %%
times = np.linspace(0, 1, 101)
for i in (0, 10, 16, 21, 31):
    power = float(LeftFirst().powers[0, i])
    plt.plot(times, times**power, label=f"position {i}")
plt.xlabel("time t")
plt.ylabel("probability of a mask")
plt.legend()
plt.show()

# %% [markdown]
# ## Is the bound a bound?
#
# A wrong weight would still train, and would report a better number than it should. With the exact
# network the bound must equal -log p(x0) for every text x0. On a toy of 27 texts (3 tokens out of
# 3) this is a finite sum over all noisy states, integrated over time. The toy derives its exact
# network from the process's noise alone.

# %%
toy = ddlm.Toy.drawn(vocab_size=3, length=3)
process = LeftFirst(vocab_size=3, length=3)
bound = toy.bound(process)
print(f"largest difference from -log p: {np.abs(bound - toy.neg_logp).max():.1e} nats")
np.testing.assert_allclose(bound, toy.neg_logp, rtol=1e-5)

# %% [markdown]
# See it fail. With MDLM's weight, 1 / t at all positions, some texts seem more probable than they
# are. Trained on text, it would report a number that is no bound, and nothing else would show it.


# %%
class Wrong(LeftFirst):
    def token_loss(self, out, x0, z, t):
        return super().token_loss(out, x0, z, t) / self.powers


wrong = toy.bound(Wrong(vocab_size=3, length=3))
print(f"too cheap: {(wrong < toy.neg_logp - 0.01).sum()} of {len(wrong)} texts")
assert (wrong < toy.neg_logp - 0.01).any()

# %% [markdown]
# Sampling follows from the same chain. The distribution of the samples, enumerated as well, comes
# to p as steps become many.

# %%
for steps in (1, 4, 16, 64):
    p = toy.ancestral(process, np.linspace(1, 0, steps + 1))
    print(f"{steps:3} steps: total variation {np.abs(p - toy.p).sum() / 2:.4f}")
assert np.abs(p - toy.p).sum() / 2 < 0.02

# %% [markdown]
# ## Trained beside MDLM
#
# The same network, text and steps; only the process differs.

# %%
experiment = ddlm.Experiment(
    ddlm.MDLM(),
    ddlm.Transformer(
        num_layers=1 if TRIAL else 2,
        width=16 if TRIAL else 96,
        num_heads=2,
        attention_bias="near",
        qk_norm=True,
    ),
    ddlm.Text(length=LENGTH),
    optimizer=ddlm.Muon(
        ddlm.LinearDecay(peak_lr=7e-3, warmup_steps=STEPS // 12, decay_steps=STEPS)
    ),
    train=ddlm.Train(
        num_steps=STEPS,
        batch_size=64,
        ema_decay=0.99,
        log_every=max(1, STEPS // 30),
        eval_every=max(1, STEPS // 4),
        checkpoint_every=STEPS // 2,
    ),
    evaluation=ddlm.Evaluation(num_times=4, batch_size=64, max_sequences=16 if TRIAL else 512),
)
runs = {}
for process in (ddlm.MDLM(), LeftFirst()):
    name = type(process).__name__
    here = replace(experiment, process=process)
    runs[name] = ddlm.train(here, f"runs/first-process-{name}", lambda line: None)

# %%
for name, run in runs.items():
    record = run.evaluate("test", 16 if TRIAL else 2048, 8, log=lambda line: None)
    plt.plot(*run.metrics()["eval/bound_bits_per_char"], "o-", label=name)
    print(f"{name}: {record['value']:.3f} +- {record['standard_error']:.3f} bits per character")
    assert 1 < record["value"] < 7
plt.xlabel("step of training")
plt.ylabel("validation bound, bits per character")
plt.legend()
plt.show()

# %% [markdown]
# At this size the two bounds differ by less than two standard errors, with one seed each: what the
# order costs, if anything, is too small to see here. What is gained is the order itself.
#
# A sample as it is made: the left end comes first.

# %%
frames = runs["LeftFirst"].frames(".", steps=8)
print("\n".join(frames))

# %% [markdown]
# In a file of its own such a process is trained by `ddlm train` too: see [a process of your
# own](../tutorial/own-process.md). Next: [exactness](exactness.ipynb).
