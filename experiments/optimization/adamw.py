"""AdamW (arXiv 1711.05101), by optax."""

from dataclasses import dataclass

import optax

from experiments.optimization.optimizer import (
    LearningRate,
    Optimizer,
    at_rates,
    check_settings,
    clipped,
    matrices,
)
from experiments.optimization.warmup_constant import WarmupConstant


@dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW, with gradients clipped.

    schedule: the learning rate. beta1, beta2: decay rates of the means of gradients and of their
    squares. eps: added to the root of the latter. weight_decay: times the learning rate, of matrices
    only. clip_norm: the largest global norm of a gradient, None for any.
    """

    schedule: LearningRate = WarmupConstant()
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0

    def __post_init__(self):
        check_settings(self, ("beta1", "beta2"))

    def build(self, params, roles):
        def adamw(schedule, weight_decay):
            return optax.adamw(
                schedule,
                b1=self.beta1,
                b2=self.beta2,
                eps=self.eps,
                weight_decay=weight_decay,
                mask=matrices(roles),
            )

        update = at_rates(adamw, self.schedule.build(), self.weight_decay, roles)
        return clipped(self.clip_norm, update)
