"""Rare tokens count more (class weights; Cui et al. 2019, arXiv 1901.05555, discuss powers of counts).

    weight of token v = f_v^(-power) / sum over u of f_u^(1 - power),     f: frequencies in the text

A few tokens are most of a text, and most tokens are rare: of a mean over tokens the rare ones see little
gradient. The weights have the mean 1 over the text.

The minimum is biased: where the loss is a weight times the cross-entropy, p_v is proportional to
q_v f_v^(-power) for the true q = p(x0 | z_t), so that rare tokens become too probable.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from experiments.token_weights.token_weight import TokenWeight


@dataclass(frozen=True)
class Rarity(TokenWeight):
    """By a power of how often the token occurs.

    power: in [0, 1]; 0 counts all tokens alike, 1 every word of the vocabulary. unigram: counts of each
    token; None takes those of the training text, where one that never occurs counts as one occurrence.
    """

    power: float = 0.5
    unigram: tuple[float, ...] | None = None

    def __post_init__(self):
        if not 0 <= self.power <= 1:
            raise ValueError(f"Rarity.power = {self.power} is outside [0, 1]")

    @property
    def weights(self) -> np.ndarray:
        """The weight of each token, (V,)."""
        if self.unigram is None:
            raise ValueError(
                "Rarity.unigram = None is filled in when the data is read; give counts"
            )
        counts = np.maximum(np.array(self.unigram, np.float64), 1)
        frequencies = counts / counts.sum()
        return frequencies**-self.power / (frequencies ** (1 - self.power)).sum()

    def __call__(self, x0, nats, reference=None):
        return jnp.asarray(self.weights, nats.dtype)[x0]
