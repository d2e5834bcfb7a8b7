"""The exact denoiser on an enumerable toy, from `log_likelihood` alone: the referee of all processes."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from conftest import REFERENCE
from enumeration import Masked

from diffusion.kernels import Redrawing
from diffusion.mdlm import MDLM

FLOOR = -1e30  # in place of -inf, whose sums and differences are not numbers


def quadrature(nodes=80, low=-30):
    """(times, weights) for integrals over (0, 1): the trapezoidal rule in logit t from `low` on, up to
    1e-13 from the end. Noise hides what is as rare as p at t about p, or p^2 where it rises as the root
    of t: the integrand has a step there, whatever p."""
    logit, step = np.linspace(low, 30, nodes, retstep=True)
    times = 1 / (1 + np.exp(-logit))
    return times, step * times * (1 - times)


def complete(process, vocab_size, seed=0):
    """The process with what the data would fill in: the size, and statistics of a made-up text."""
    rng = np.random.default_rng(seed)
    made_up = {
        "vocab_size": lambda: vocab_size,
        "unigram": lambda: tuple((1000 * rng.dirichlet(np.ones(vocab_size))).tolist()),
        "embeddings": lambda: tuple(map(tuple, rng.normal(size=(vocab_size, 3)).tolist())),
        "probabilities": lambda: tuple(rng.dirichlet(np.ones(vocab_size)).tolist()),
        "matrix": lambda: tuple(
            map(tuple, rng.dirichlet(np.ones(vocab_size), vocab_size).tolist())
        ),
    }
    changes = {}
    for f in fields(process):
        value = getattr(process, f.name)
        if is_dataclass(value):
            changes[f.name] = complete(value, vocab_size, seed)
        elif f.name in made_up and f.init and value in (None, ""):
            changes[f.name] = made_up[f.name]()
    return replace(process, **changes)


# name: vocabulary, length, seed of the distribution; tests/golden/toys.json pins what comes of them.
TOYS = {"V3L3": (3, 3, 113), "V4L2": (4, 2, 114), "V5L2": (5, 2, 115)}
# Few steps, where rules differ most, on every toy; more of them on one.
STEPS = {"V3L3": (4, 16), "V4L2": (4,), "V5L2": (4,)}


@dataclass(frozen=True)
class OneText:
    """A function model(z, t) whose rows are a text each, as a `diffusion.model.RowModel`."""

    function: Callable
    segments: jax.Array | None = None

    def __call__(self, z, t, **condition):
        return self.function(z, t, **condition)


class Toy:
    """A distribution p (N,) over all sequences `states` (N, L), the first token the most significant."""

    def __init__(self, p, vocab_size, length):
        self.p, self.vocab_size, self.length = p, vocab_size, length
        self.states = self.sequences(vocab_size)
        self.neg_logp = -np.log(p)
        self.entropy = float(p @ self.neg_logp)
        self.one_hot = np.eye(vocab_size)[self.states]  # (N, L, V)

    @classmethod
    def named(cls, name="V3L3"):
        """One of TOYS, with the probabilities of $DDLM_REFERENCE where they are there."""
        vocab_size, length, seed = TOYS[name]
        file = REFERENCE / f"toy_{name}.npz"
        if file.is_file():
            return cls(np.load(file)["p"], vocab_size, length)
        p = np.random.default_rng(seed).dirichlet(np.full(vocab_size**length, 0.6))
        return cls(p, vocab_size, length)

    def sequences(self, size):
        """Every sequence over so many values, (size^L, L)."""
        return np.array(list(itertools.product(range(size), repeat=self.length)))

    def all_states(self, process):
        """Every noisy state, (Z, L)."""
        return self.sequences(process.num_states)

    def log_likelihoods(self, process, z, t):
        """log q(z^i | x0^i) of every state z (Z, L) under every sequence, (Z, N, L)."""
        log_q = jnp.maximum(process.log_likelihood(z, t), FLOOR)
        return jnp.einsum("zlv,nlv->znl", log_q, self.one_hot)

    def transition(self, process, z, t):
        """q(z | x0) for every sequence and state, (N, Z)."""
        return jnp.exp(self.log_likelihoods(process, z, t).sum(-1)).T

    def denoiser(self, process):
        """model(z, t) -> out (B, L, V), the exact quantity that the process's head stands for."""
        head = getattr(process, "head", "posterior")
        if head == "score":
            return self._score(process)

        def model(z, t):
            per_position = self.log_likelihoods(process, z, t)
            joint = jnp.log(self.p)[None, :, None] + per_position.sum(-1, keepdims=True)
            if head == "leave_one_out":
                joint = joint - per_position
            weights = jnp.exp(joint - joint.max(1, keepdims=True))
            p0 = jnp.einsum("bnl,nlv->blv", weights, self.one_hot)
            return jnp.log(p0) - jnp.log(weights.sum(1))[..., None]

        return model

    def table(self, process):
        """`denoiser`, computed for every state and looked up; all rows of a call have the same time."""
        states, model = jnp.asarray(self.all_states(process)), self.denoiser(process)
        base = jnp.asarray(process.num_states ** np.arange(self.length)[::-1])

        def look_up(z, t):
            out = model(states, jnp.broadcast_to(t[:1], (len(states), t.shape[1])))
            return out[(z * base[None]).sum(-1)]

        return look_up

    def _score(self, process):
        """log p_t(y) / p_t(z), y being z with position i set to v."""

        def marginal(z, t):
            return jnp.log(self.transition(process, z, t).T @ self.p)

        def model(z, t):
            here, columns = marginal(z, t), []
            for i in range(self.length):
                there = [marginal(z.at[:, i].set(v), t) for v in range(self.vocab_size)]
                columns.append(jnp.stack(there, -1) - here[:, None])
            score = jnp.stack(columns, 1)
            if getattr(process, "scaled", False):  # what the network says before the output scaling
                score = score - (process.log_odds(t) - jnp.log(self.vocab_size))[..., None]
            if isinstance(process.kernel, Redrawing):  # beside that of pure noise
                log_pi = jnp.log(of_prior(process))
                score = score - log_pi[None, None] + log_pi[z][..., None]
            return score

        return model

    def index(self, x):
        """The number of each sequence x (B, L)."""
        return np.asarray(x) @ self.vocab_size ** np.arange(self.length)[::-1]


def of_prior(process):
    """The distribution of the x, (V,), over which p(z_1) is the mean of q(z_1 | x)."""
    V, kernel = process.vocab_size, getattr(process, "kernel", None)
    return np.broadcast_to(kernel.pi(V) if isinstance(kernel, Redrawing) else 1 / V, V)


ROWS = 20_000


class Table:
    """A toy under masking, whose exact denoiser depends on no time and is looked up."""

    def __init__(self, name="V3L3"):
        self.toy = Toy.named(name)
        self.masked = Masked(self.toy)
        self.size, self.length = self.toy.vocab_size, self.toy.length
        self.states, self.p0 = self.masked.states, self.masked.denoiser  # (Z, L), (Z, L, V)
        with np.errstate(divide="ignore"):
            self.log_p0 = np.log(self.p0)
        self.base = (self.size + 1) ** np.arange(self.length)[::-1]

    def model(self, z, t):
        return jnp.asarray(self.log_p0, jnp.float32)[(z * self.base[None]).sum(-1)]

    def number(self, state):
        return int(np.dot(state, self.base))

    def counts(self, sampler, process=None, rows=ROWS, key=0, known=None):
        process = process or MDLM(self.size)
        known = None if known is None else jnp.broadcast_to(np.array(known), (rows, self.length))
        run = jax.jit(lambda k: sampler.run(k, process, self.model, (rows, self.length), known))
        x0, calls, _ = run(jax.random.key(key))
        counts = np.bincount(self.toy.index(x0), minlength=len(self.toy.p))
        return counts, np.asarray(calls)


def together(rows):
    """The distribution of a state whose positions are independent, each by its row."""
    joint = rows[0]
    for row in rows[1:]:
        joint = np.multiply.outer(joint, row)
    return joint.reshape(-1)


def reveal(table, distribution, state, chosen, weight, power=1):
    """Adds the states after the chosen positions of `state` are drawn: `weight` times their chance."""
    p0 = table.p0[table.number(state)] ** power
    p0 = p0 / p0.sum(-1, keepdims=True)
    for tokens in itertools.product(range(table.size), repeat=len(chosen)):
        after = list(state)
        for i, v in zip(chosen, tokens, strict=True):
            after[i] = v
        p = weight * math.prod(p0[i, v] for i, v in zip(chosen, tokens, strict=True))
        distribution[tuple(after)] = distribution.get(tuple(after), 0) + p


def as_array(table, distribution):
    """The weights {state: weight} of whole sequences, (N,)."""
    result = np.zeros(len(table.toy.p))
    for state, weight in distribution.items():
        result[int(table.toy.index(np.array(state)))] += weight
    return result


def assert_distribution(counts, distribution, bias=0.0, sigmas=5.0):
    """Counts of outcomes against their probabilities: each within `sigmas` standard errors + bias."""
    n = counts.sum()
    error = np.sqrt(distribution * (1 - distribution) / n) + 1 / n
    worst = np.max((np.abs(counts / n - distribution) - bias) / error)
    assert worst < sigmas, f"{worst:.1f} standard errors from the distribution"
