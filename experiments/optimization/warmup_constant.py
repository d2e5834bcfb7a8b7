"""A linear rise to the peak, then constant."""

from dataclasses import dataclass

import optax

from experiments.optimization.optimizer import LearningRate, warmed_up


@dataclass(frozen=True)
class WarmupConstant(LearningRate):
    """The rate rises to peak_lr and stays there.

    peak_lr: the largest rate. warmup_steps: updates of the linear rise to it; 0 starts with it.
    """

    peak_lr: float = 3e-4
    warmup_steps: int = 2500

    def __post_init__(self):
        self.check()

    def build(self):
        return warmed_up(self.peak_lr, self.warmup_steps, optax.constant_schedule(self.peak_lr))
