"""A linear rise to the peak, then a line down."""

from dataclasses import dataclass

import optax

from experiments.optimization.optimizer import LearningRate, warmed_up


@dataclass(frozen=True)
class Linear(LearningRate):
    """The rate rises to peak_lr and falls along a line to final_lr.

    peak_lr: the largest rate. warmup_steps: updates of the linear rise to it; 0 starts with it.
    decay_steps: the update at which it has reached final_lr. final_lr: the rate from then on.
    """

    peak_lr: float = 3e-4
    warmup_steps: int = 2500
    decay_steps: int = 1_000_000
    final_lr: float = 0.0

    def __post_init__(self):
        self.check()

    def build(self):
        steps = self.decay_steps - self.warmup_steps
        falling = optax.linear_schedule(self.peak_lr, self.final_lr, steps)
        return warmed_up(self.peak_lr, self.warmup_steps, falling)
