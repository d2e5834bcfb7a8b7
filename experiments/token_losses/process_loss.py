"""The loss of each token as the process has it."""

from dataclasses import dataclass

from experiments.token_losses.token_loss import TokenLoss


@dataclass(frozen=True)
class ProcessLoss(TokenLoss):
    """The process's own: for most a weight times the cross-entropy."""

    def __call__(self, nats, out, x0, weight):
        return nats

    def applied(self, model):
        return model

    def check(self, process):
        """Nothing: every objective has its own loss."""
