"""A loss of tokens of one's own: logits stay small.

ddlm train --config tests/extension/token_loss.py --workdir runs/own-token-loss
"""

from dataclasses import dataclass, replace

from configs import smoke
from experiments.token_losses.process_loss import ProcessLoss
from experiments.token_losses.token_loss import TokenLoss


@dataclass(frozen=True)
class SmallLogits(TokenLoss):
    """The mean square of the logits, added; scale: of it. inner: what it is added to."""

    scale: float = 1e-3
    inner: TokenLoss = ProcessLoss()

    def __call__(self, nats, out, x0, weight):
        return self.inner(nats, out, x0, weight) + weight * self.scale * (out**2).mean(-1)


def get_config():
    base = smoke.get_config()
    return replace(base, train=replace(base.train, token_loss=SmallLogits()))
