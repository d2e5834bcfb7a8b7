"""z-loss (PaLM, Chowdhery et al. 2022, arXiv 2204.02311): logits stay near a normalised log-probability.

    f + w * coefficient * log^2 Z,     Z = sum_v exp(out_v)

The minimum over distributions stays where it is: adding one number to all logits of a position changes
log Z alone. Of all logits with that minimum it chooses those with log Z = 0, so that they neither drift
nor lose digits in bfloat16.
"""

from dataclasses import dataclass

import jax

from experiments.token_losses.process_loss import ProcessLoss
from experiments.token_losses.token_loss import TokenLoss


@dataclass(frozen=True)
class ZLoss(TokenLoss):
    """The square of the log-normaliser, added.

    coefficient: of it, published 1e-4. inner: the loss that it is added to.
    """

    coefficient: float = 1e-4
    inner: TokenLoss = ProcessLoss()

    def __post_init__(self):
        if self.coefficient < 0:
            raise ValueError(f"ZLoss.coefficient = {self.coefficient} must not be negative")

    def __call__(self, nats, out, x0, weight):
        log_z = jax.nn.logsumexp(out, axis=-1)
        return self.inner(nats, out, x0, weight) + weight * self.coefficient * log_z**2
