"""A linear rise to the peak, then a cosine down."""

from dataclasses import dataclass

import optax

from experiments.optimization.optimizer import LearningRate, warmed_up


@dataclass(frozen=True)
class WarmupCosine(LearningRate):
    """The rate rises to peak_lr and falls along a cosine to final_lr.

    peak_lr: the largest rate. warmup_steps: updates of the linear rise to it; 0 starts with it.
    decay_steps: the update at which it has reached final_lr, whatever the number of steps trained, so
    that a run continued is the run it would have been. final_lr: the rate from then on.
    """

    peak_lr: float = 3e-4
    warmup_steps: int = 2500
    decay_steps: int = 1_000_000
    final_lr: float = 0.0

    def __post_init__(self):
        self.check()

    def build(self):
        share = self.final_lr / self.peak_lr if self.peak_lr else 0.0
        falling = optax.cosine_decay_schedule(
            self.peak_lr, self.decay_steps - self.warmup_steps, share
        )
        return warmed_up(self.peak_lr, self.warmup_steps, falling)
