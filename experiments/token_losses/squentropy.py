"""Squentropy (Hui, Belkin and Wright 2023, arXiv 2302.03952): logits of other tokens stay near 0.

    f + w * scale / (V - 1) * sum over v other than x0 of out_v^2

Its minimum is biased towards the uniform distribution. Where f is w times the cross-entropy, for the
true q = p(x0 | z_t), it is p = softmax(out) with

    p_v = q_v - 2 scale (1 - q_v) out_v / (V - 1).
"""

from dataclasses import dataclass

from diffusion.numerics import gather_last
from experiments.token_losses.process_loss import ProcessLoss
from experiments.token_losses.token_loss import TokenLoss


@dataclass(frozen=True)
class Squentropy(TokenLoss):
    """The mean square of the logits of the wrong tokens, added.

    scale: of it, published 1. inner: the loss that it is added to.
    """

    scale: float = 1.0
    inner: TokenLoss = ProcessLoss()

    def __post_init__(self):
        if self.scale < 0:
            raise ValueError(f"Squentropy.scale = {self.scale} must not be negative")

    def __call__(self, nats, out, x0, weight):
        squares = (out**2).sum(-1) - gather_last(out, x0) ** 2
        added = weight * self.scale * squares / (out.shape[-1] - 1)
        return self.inner(nats, out, x0, weight) + added
