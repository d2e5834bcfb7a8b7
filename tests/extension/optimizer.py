"""An optimiser of one's own: Lion (arXiv 2302.06675), by optax.

ddlm train --config tests/extension/optimizer.py --workdir runs/own-optimizer
"""

from dataclasses import dataclass, replace

import optax

from configs import smoke
from experiments.optimization.optimizer import LearningRate, Optimizer, matrices
from experiments.optimization.warmup_constant import WarmupConstant


@dataclass(frozen=True)
class Lion(Optimizer):
    """beta1 of the update, beta2 of the momentum; weight_decay acts on matrices."""

    schedule: LearningRate = WarmupConstant(3e-4, 10)
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1

    def build(self, params, roles):
        return optax.lion(
            self.schedule.build(),
            self.beta1,
            self.beta2,
            weight_decay=self.weight_decay,
            mask=matrices(roles),
        )


def get_config():
    return replace(smoke.get_config(), optimizer=Lion())
