"""Error norm truncation (Li et al. 2023, arXiv 2310.00840): tokens that look like mistakes are left out.

    f [ |e_x0 - p|_2 <= most ],     p = softmax(out), e_x0 one-hot; no gradient through the bracket

The norm is near its largest, 2^(1/2), where the model is sure of another token, and lower where it is
unsure, though x0 may be as improbable in both: noise in the data, rather than what is yet to be learned.
Its minimum is biased: a model that once is sure of a token no longer hears of the others, which it gives
too little probability, down to none.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffusion.numerics import gather_last
from experiments.token_losses.process_loss import ProcessLoss
from experiments.token_losses.token_loss import TokenLoss


@dataclass(frozen=True)
class ErrorNormTruncation(TokenLoss):
    """Nothing from tokens of a large error norm.

    most: the largest norm that is learned from, in (0, 2^(1/2)); a model that starts as the uniform
    distribution learns nothing unless it is above (1 - 1 / V)^(1/2), which 1 always is. inner: the loss
    that is left out.
    """

    most: float = 1.3
    inner: TokenLoss = ProcessLoss()

    def __post_init__(self):
        if not 0 < self.most < 2**0.5:
            raise ValueError(f"ErrorNormTruncation.most = {self.most} is outside (0, 2^(1/2))")

    def __call__(self, nats, out, x0, weight):
        p = jax.nn.softmax(jax.lax.stop_gradient(out))
        square = (p**2).sum(-1) - 2 * gather_last(p, x0) + 1
        return jnp.where(square <= self.most**2, self.inner(nats, out, x0, weight), 0)
