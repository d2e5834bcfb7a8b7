"""Focal loss (Lin et al. 2017, arXiv 1708.02002): tokens that the model is sure of count less.

    (1 - p_x0)^power f,     p = softmax(out), with the gradient through both factors

Its minimum is biased: flatter than the true q = p(x0 | z_t), the more so the larger the power. Where f
is w times the cross-entropy of two tokens, q : 1 - q is learned as p : 1 - p with

    q g(p) = (1 - q) g(1 - p),     g(p) = (1 - p)^power / p - power (1 - p)^(power - 1) log p.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffusion.numerics import gather_last
from experiments.token_losses.process_loss import ProcessLoss
from experiments.token_losses.token_loss import TokenLoss


@dataclass(frozen=True)
class Focal(TokenLoss):
    """Less of what is known well.

    power: how much less, published 2; 0 changes nothing. inner: the loss that is multiplied.
    """

    power: float = 2.0
    inner: TokenLoss = ProcessLoss()

    def __post_init__(self):
        if self.power < 0:
            raise ValueError(f"Focal.power = {self.power} must not be negative")

    def __call__(self, nats, out, x0, weight):
        log_p = gather_last(out, x0) - jax.nn.logsumexp(out, axis=-1)
        # At p = 1 the gradient of a power below 1 would be infinite.
        missed = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(out.dtype).tiny)
        return missed**self.power * self.inner(nats, out, x0, weight)
