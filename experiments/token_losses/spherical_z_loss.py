"""Spherical Z-loss (de Brébisson and Vincent 2016, arXiv 1604.08859): logits are judged by how far x0's
stands out among them, whatever their scale and their mean.

    (1 - share) f + share * w * softplus(a (b - z_x0)) / a,     z = (out - mean(out)) / std(out)

Its minimum is biased. The second term chooses the direction of z alone, where q_v s(a (b - z_v)), s the
logistic function, is an affine function of z_v for the true q = p(x0 | z_t): more probable tokens have
larger logits, but softmax(out) of no scale is q. With a share of 1, as published, nothing chooses the
scale, so that the bound says little of what was learned; the mixture with f, which does, is ours.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffusion.numerics import gather_last
from experiments.token_losses.process_loss import ProcessLoss
from experiments.token_losses.token_loss import TokenLoss


@dataclass(frozen=True)
class SphericalZLoss(TokenLoss):
    """Charges a token for how far its standardised logit is below a margin.

    share: of this loss; the rest is `inner`. sharpness, margin: a and b, which the paper chooses for
    each text; z is at most (V - 1)^(1/2). floor: added to the variance of the logits, ours, since
    networks begin with logits of 0. inner: the loss that has the rest.
    """

    share: float = 0.5
    sharpness: float = 1.0
    margin: float = 3.0
    floor: float = 0.01
    inner: TokenLoss = ProcessLoss()

    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise ValueError(f"SphericalZLoss.share = {self.share} is outside [0, 1]")
        for name in ("sharpness", "floor"):
            if getattr(self, name) <= 0:
                raise ValueError(f"SphericalZLoss.{name} = {getattr(self, name)} must be above 0")

    def __call__(self, nats, out, x0, weight):
        spread = jnp.sqrt(out.var(-1) + self.floor)
        stands_out = (gather_last(out, x0) - out.mean(-1)) / spread
        missing = jax.nn.softplus(self.sharpness * (self.margin - stands_out)) / self.sharpness
        nats = self.inner(nats, out, x0, weight)
        return (1 - self.share) * nats + self.share * weight * missing
