"""A learning rate of one's own: it rises and falls along a line, again and again (arXiv 1506.01186).

ddlm train --config tests/extension/learning_rate.py --workdir runs/own-rate
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp

from configs import smoke
from experiments.optimization.optimizer import LearningRate


@dataclass(frozen=True)
class Triangles(LearningRate):
    """From 0 to peak_lr and back every `period` steps."""

    peak_lr: float = 3e-3
    period: int = 20

    def build(self):
        return lambda step: (
            self.peak_lr * (1 - jnp.abs(2 * ((step + 1) % self.period) / self.period - 1))
        )


def get_config():
    base = smoke.get_config()
    return replace(base, optimizer=replace(base.optimizer, schedule=Triangles()))
