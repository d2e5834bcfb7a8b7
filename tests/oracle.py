"""The exact denoiser on an enumerable toy, from `log_likelihood` alone: the referee of all processes."""

import itertools

import jax.numpy as jnp
import numpy as np


class Toy:
    """A distribution over all sequences; arrays as in the reference file `toy_*`."""

    def __init__(self, arrays):
        self.p, self.states = arrays["p"], arrays["states"]
        self.vocab_size = int(self.states.max()) + 1
        self.length = self.states.shape[1]
        self.neg_logp = arrays["neg_logp"]

    def masked_states(self):
        """Every state with the mask, (N, L)."""
        symbols = range(self.vocab_size + 1)
        return np.array(list(itertools.product(symbols, repeat=self.length)))

    def denoiser(self, process):
        """model(z, t) -> log p(x0^i = v | z_t), (B, L, V)."""
        one_hot = jnp.eye(self.vocab_size)[self.states]  # (N, L, V)

        def model(z, t):
            log_likelihood = jnp.maximum(process.log_likelihood(z, t), -1e30)
            joint = jnp.log(self.p)[None] + jnp.einsum("blv,nlv->bn", log_likelihood, one_hot)
            weights = jnp.exp(joint - joint.max(1, keepdims=True))
            p0 = jnp.einsum("bn,nlv->blv", weights, one_hot)
            return jnp.log(p0) - jnp.log(weights.sum(1))[:, None, None]

        return model

    def index(self, x):
        """The number of each sequence x (B, L)."""
        return np.asarray(x) @ self.vocab_size ** np.arange(self.length)[::-1]


def assert_law(counts, law, bias=0.0, sigmas=5.0):
    """Counts of outcomes against their probabilities: each within `sigmas` standard errors + bias."""
    n = counts.sum()
    error = np.sqrt(law * (1 - law) / n) + 1 / n
    worst = np.max((np.abs(counts / n - law) - bias) / error)
    assert worst < sigmas, f"{worst:.1f} standard errors from the law"
