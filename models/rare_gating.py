"""Adaptive gradient gating (Yu et al. 2022, arXiv 2109.03127): what pushes the vectors of rare tokens
away from the hidden states of others is held back.

    dL/dw_v = sum over positions of (d_v g_v if d_v > 0 else d_v) x,     d = dL/dlogits
    g_v = min(f_v / frequency, 1),     f: frequencies in the text

A rare token is almost never the target, and the rest of the text pushes its vector the same way as those
of all other rare tokens, into a corner where they are alike, and, with a tied embedding, are read alike.
The logits are those of `DotProduct`, and what the network and the biases learn is not gated: the vectors
alone learn otherwise. Published are two gates, one that grows with the count in the last steps, and one
among rare targets; here is one, by counts of the text, which is ours.

What is followed is the gradient of no function, and its equilibrium is biased. Where vectors alone
learn, from one hidden state, the true q of a rare token among two is learned as
p = 2 q / (1 + q + g (1 - q)), up to twice as probable; the network and the biases, whose minimum is
unchanged, may make up for it.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from models.readout import Readout


@dataclass(frozen=True)
class RareGating(Readout):
    """Dot products whose gradients to the vectors of rare tokens are gated.

    frequency: a token that is a smaller share of the text is rare. unigram: counts of each token; None
    takes those of the training text.
    """

    frequency: float = 1e-3
    unigram: tuple[float, ...] | None = field(default=None, repr=False)

    def __post_init__(self):
        if not 0 < self.frequency <= 1:
            raise ValueError(f"RareGating.frequency = {self.frequency} is outside (0, 1]")

    @property
    def gates(self) -> np.ndarray:
        """g, (V,); ValueError where the data has yet to fill in the counts."""
        if self.unigram is None:
            raise ValueError(
                "RareGating.unigram = None is filled in when the data is read; give counts"
            )
        counts = np.array(self.unigram, np.float64)
        return np.minimum(counts / counts.sum() / self.frequency, 1)

    def __call__(self, x, kernel, bias):
        out = _gated(x, kernel, jnp.asarray(self.gates, kernel.dtype)[None])
        return out if bias is None else out + bias.reshape(1, -1)


@jax.custom_vjp
def _gated(x, kernel, gates):
    return x @ kernel


def _forward(x, kernel, gates):
    return x @ kernel, (x, kernel, gates)


def _backward(kept, d):
    x, kernel, gates = kept
    return d @ kernel.T, x.T @ jnp.where(d > 0, d * gates, d), None


_gated.defvjp(_forward, _backward)
