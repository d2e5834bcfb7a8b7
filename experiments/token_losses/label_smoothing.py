"""Label smoothing (Szegedy et al. 2015, arXiv 1512.00567): some of each token is spread over all.

    (1 - share) f + share * w * mean over v of -log p_v,     p = softmax(out)

Where f is w times the cross-entropy its minimum is p = (1 - share) q + share / V for the true q =
p(x0 | z_t): the model is biased towards the uniform distribution, and its bound is the higher for it
by up to share * log V.
"""

from dataclasses import dataclass

import jax

from experiments.token_losses.process_loss import ProcessLoss
from experiments.token_losses.token_loss import TokenLoss


@dataclass(frozen=True)
class LabelSmoothing(TokenLoss):
    """The cross-entropy against tokens that are partly uniform.

    share: of each token that is spread over all V. inner: the loss that has the rest.
    """

    share: float = 0.1
    inner: TokenLoss = ProcessLoss()

    def __post_init__(self):
        if not 0 <= self.share < 1:
            raise ValueError(f"LabelSmoothing.share = {self.share} is outside [0, 1)")

    def __call__(self, nats, out, x0, weight):
        of_all = jax.nn.logsumexp(out, axis=-1) - out.mean(-1)
        nats = self.inner(nats, out, x0, weight)
        return (1 - self.share) * nats + self.share * weight * of_all
