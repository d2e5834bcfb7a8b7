"""The exact denoiser on an enumerable toy, from `log_likelihood` alone: the referee of all processes."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace

import jax.numpy as jnp
import numpy as np

FLOOR = -1e30  # in place of -inf, whose sums and differences are not numbers


def quadrature(nodes=80):
    """(times, weights) for integrals over (0, 1): the trapezoidal rule in logit t, up to 1e-13 from both
    ends. Noise hides what is as rare as p at t about p: the integrand has a step there, whatever p."""
    logit, step = np.linspace(-30, 30, nodes, retstep=True)
    times = 1 / (1 + np.exp(-logit))
    return times, step * times * (1 - times)


def complete(process, vocab_size, seed=0):
    """The process with what the data would fill in: the size, and statistics of a made-up text."""
    rng = np.random.default_rng(seed)
    made_up = {
        "vocab_size": lambda: vocab_size,
        "unigram": lambda: tuple((1000 * rng.dirichlet(np.ones(vocab_size))).tolist()),
        "embeddings": lambda: tuple(map(tuple, rng.normal(size=(vocab_size, 3)).tolist())),
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


@dataclass(frozen=True)
class OneText:
    """A function model(z, t) whose rows are a text each, as a `diffusion.process.RowModel`."""

    function: Callable
    segments: None = None

    def __call__(self, z, t):
        return self.function(z, t)


class Toy:
    """A distribution over all sequences; arrays as in the reference file `toy_*`."""

    def __init__(self, arrays):
        self.p, self.states = arrays["p"], arrays["states"]
        self.vocab_size = int(self.states.max()) + 1
        self.length = self.states.shape[1]
        self.neg_logp = arrays["neg_logp"]
        self.one_hot = np.eye(self.vocab_size)[self.states]  # (N, L, V)

    def all_states(self, process):
        """Every noisy state, (Z, L)."""
        return np.array(list(itertools.product(range(process.num_states), repeat=self.length)))

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
            return score

        return model

    def index(self, x):
        """The number of each sequence x (B, L)."""
        return np.asarray(x) @ self.vocab_size ** np.arange(self.length)[::-1]


def assert_distribution(counts, distribution, bias=0.0, sigmas=5.0):
    """Counts of outcomes against their probabilities: each within `sigmas` standard errors + bias."""
    n = counts.sum()
    error = np.sqrt(distribution * (1 - distribution) / n) + 1 / n
    worst = np.max((np.abs(counts / n - distribution) - bias) / error)
    assert worst < sigmas, f"{worst:.1f} standard errors from the distribution"
