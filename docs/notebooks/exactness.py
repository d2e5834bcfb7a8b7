# %% [markdown]
# # Exactness on toys
#
# What does a bound, or a sampler, cost in exactness? With a trained network nobody can tell its
# error from theirs. On a distribution that can be enumerated the exact network is a table, and
# everything else is a finite sum. Here are both, drawn.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ddlm

SAMPLES = 100 * int(os.environ.get("DDLM_NOTEBOOK_STEPS", 1000))  # of each sampler
TRIAL = SAMPLES < 10_000
toy = ddlm.Toy.drawn(vocab_size=3, length=3, seed=2)
print(f"{len(toy.p)} texts, entropy {toy.entropy:.4f} nats")

# %% [markdown]
# ## The exact network
#
# For every noisy state z the toy knows p(x0 | z): the average over all texts that could have become
# z. Of masked states it depends on what is revealed, and on no time.

# %%
process = ddlm.MDLM(vocab_size=3)
z = jnp.array([[3, 3, 3], [0, 3, 3], [0, 1, 3]])  # 3 is the mask
p0 = np.exp(toy.log_posterior(process, z, jnp.full((3, 1), 0.5)))
figure, axes = plt.subplots(1, 3, figsize=(8, 2.4), layout="constrained", sharey=True)
for row, axis, state in zip(p0, axes, ("_ _ _", "a _ _", "a b _"), strict=True):
    image = axis.imshow(row.T, vmin=0, vmax=1, cmap="Blues")
    axis.set(title=f"given {state}", xlabel="position", xticks=range(3))
    axis.set_yticks(range(3), "abc")
axes[0].set_ylabel("token")
figure.colorbar(image, label="probability")
plt.show()

# %% [markdown]
# ## The bound of every text
#
# In continuous time, with this network, the bound of a process must be -log p(x0) for each text:
# all points lie on the diagonal, whatever the noise (masks, uniform tokens), the schedule, and what
# the network's output stands for (p(x0 | z), a score).

# %%
processes = {
    "MDLM": ddlm.MDLM(3),
    "MDLM, cosine schedule": ddlm.MDLM(3, ddlm.Cosine()),
    "GenMD4": ddlm.GenMD4(3),
    "UDLM, uniform noise": ddlm.UDLM(3),
    "SEDD, uniform noise": ddlm.SEDD(3, kernel=ddlm.Uniform(), schedule=ddlm.Linear()),
}
figure, axis = plt.subplots(figsize=(4.5, 4), layout="constrained")
axis.plot([0, 8], [0, 8], "k", linewidth=0.5)
for (name, process), marker in zip(processes.items(), "o+xsd", strict=True):
    bound = toy.bound(process)
    axis.plot(toy.neg_logp, bound, marker, fillstyle="none", label=name)
    apart = np.abs(bound - toy.neg_logp).max()
    print(f"{name}: average {toy.p @ bound:.4f} nats, a text is off by at most {apart:.0e}")
    np.testing.assert_allclose(bound, toy.neg_logp, rtol=1e-4)
axis.set(xlabel="-log p(x0), nats", ylabel="bound, nats")
axis.legend()
plt.show()

# %% [markdown]
# ## What a grid of steps costs
#
# A chain of T steps draws the tokens of a step independently, so its bound lies above the entropy,
# by about 1 / T. More steps tell the truth about the same network.

# %%
counts = [1, 16] if TRIAL else [1, 2, 4, 8, 16, 32, 64]
figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
for kernel in (ddlm.Absorbing(), ddlm.Uniform()):
    bounds = [toy.bound(ddlm.D3PM(3, kernel=kernel, num_steps=T), T) for T in counts]
    gaps = [toy.p @ bound - toy.entropy for bound in bounds]
    assert min(gaps) > 0 and gaps[-1] < gaps[0] / 5
    axis.loglog(counts, gaps, "o-", label=f"D3PM, {type(kernel).__name__}")
axis.set(xlabel="steps T", ylabel="bound - entropy, nats", xticks=counts, xticklabels=counts)
axis.legend()
plt.show()

# %% [markdown]
# ## What samplers draw
#
# The distribution of ancestral sampling is enumerated: all states, step after step. Its distance
# from p is the total variation, the largest difference of the probability of any set of texts.
# Other samplers are counted over many samples, which makes a distance of its own (dotted): what
# exact draws would show.


# %%
def distance(p):
    return np.abs(p - toy.p).sum() / 2


def counted(sampler, process):
    """(distance of the samples, calls of the network)."""
    draw = jax.jit(lambda key: sampler.run(key, process, toy.denoiser(process), (SAMPLES, 3)))
    samples = draw(jax.random.key(0))
    p = np.bincount(toy.index(samples.x0), minlength=len(toy.p)) / SAMPLES
    return distance(p), float(samples.calls.mean())


figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
for process in (ddlm.MDLM(3), ddlm.UDLM(3)):
    times = [np.linspace(1, 0, T + 1) for T in counts]
    far = [distance(toy.ancestral(process, at)) for at in times]
    assert far[-1] < 0.1 < far[0]
    axis.loglog(counts, far, "-", label=f"{type(process).__name__}, Ancestral, enumerated")
process = ddlm.MDLM(3)
samplers = {
    "Ancestral, counted": ddlm.Ancestral,
    "Euler": ddlm.Euler,
    "PathPlanning": ddlm.PathPlanning,
}
found = {}
for (name, sampler), marker in zip(samplers.items(), "osd", strict=True):
    found[name] = [counted(sampler(T), process)[0] for T in counts[1::2]]
    axis.plot(counts[1::2], found[name], marker, fillstyle="none", label=f"MDLM, {name}")
hitting, calls = counted(ddlm.FirstHitting(), process)
axis.plot(calls, hitting, "k*", markersize=12, label="MDLM, FirstHitting")
exact = np.random.default_rng(0).multinomial(SAMPLES, toy.p) / SAMPLES
axis.axhline(distance(exact), color="k", linestyle=":", label="exact draws, counted")
axis.set(
    xlabel="calls of the network",
    ylabel="total variation from p",
    xticks=counts,
    xticklabels=counts,
)
axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
enumerated = distance(toy.ancestral(process, np.linspace(1, 0, counts[1] + 1)))
assert abs(found["Ancestral, counted"][0] - enumerated) < 2 * distance(exact)
assert hitting < 2 * distance(exact)

# %% [markdown]
# `FirstHitting` reveals one token at a time and is exact in as many calls as there are tokens.
# `PathPlanning` prefers what the network is sure of: no number of steps takes its distance away.
# (On text, with a network that errs, the same preference may look better: [the
# frontier](sampler_frontier.ipynb).)
