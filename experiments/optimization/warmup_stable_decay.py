"""Rise, stay, fall (arXiv 2404.06395): a run can be continued from where it stays, and ended."""

from dataclasses import dataclass

import optax

from experiments.optimization.optimizer import LearningRate, warmed_up


@dataclass(frozen=True)
class WarmupStableDecay(LearningRate):
    """The rate rises to peak_lr, stays there, and falls along a line to final_lr.

    peak_lr: the largest rate. warmup_steps: updates of the linear rise to it; 0 starts with it.
    stable_steps: the update at which it begins to fall. decay_steps: the update at which it has reached
    final_lr. final_lr: the rate from then on.
    """

    peak_lr: float = 3e-4
    warmup_steps: int = 2500
    stable_steps: int = 900_000
    decay_steps: int = 1_000_000
    final_lr: float = 0.0

    def __post_init__(self):
        self.check()
        if not self.warmup_steps <= self.stable_steps < self.decay_steps:
            raise ValueError(
                f"WarmupStableDecay.warmup_steps, stable_steps, decay_steps = {self.warmup_steps}, "
                f"{self.stable_steps}, {self.decay_steps} must rise"
            )

    def build(self):
        stays = self.stable_steps - self.warmup_steps
        falling = optax.linear_schedule(
            self.peak_lr, self.final_lr, self.decay_steps - self.stable_steps
        )
        flat = optax.constant_schedule(self.peak_lr)
        after = optax.join_schedules([flat, falling], [stays]) if stays else falling
        return warmed_up(self.peak_lr, self.warmup_steps, after)
