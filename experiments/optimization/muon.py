"""Muon for the hidden matrices, those of the layers, AdamW for all else, by `optax.contrib`.

The update of a matrix is its momentum with all singular values set to about 1, by Newton and Schulz's
iteration (K. Jordan, 2024), scaled by 0.2 sqrt(max(inputs, outputs)), so that it has the size of AdamW's
and one learning rate serves both (arXiv 2502.16982). Layers are stored stacked, (N, inputs, outputs):
each of the N matrices is made orthogonal by itself.

All singular values of an update being alike, it changes what a matrix gives by the learning rate times
0.2 sqrt(width) of what it reads, and AdamW's, which is aligned with it, by the rate times width: under
`Transformer.base_width` the one needs the root of the rate that the other needs.
"""

from dataclasses import dataclass
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from experiments.optimization.adamw import AdamW
from experiments.optimization.optimizer import (
    LearningRate,
    Optimizer,
    at_rates,
    check_settings,
    clipped,
    hidden_matrices,
)
from experiments.optimization.warmup_constant import WarmupConstant


@dataclass(frozen=True)
class Muon(Optimizer):
    """Muon for the matrices of the layers, AdamW for all else.

    schedule: the learning rate, of matrices and all else alike. momentum: decay rate of the mean of
    gradients of matrices. beta1, beta2: AdamW's, of all else. eps: added to its root of squares.
    weight_decay: times the learning rate, of matrices only. clip_norm: the largest global norm of a
    gradient, None for any. iterations: of Newton and Schulz.
    """

    schedule: LearningRate = WarmupConstant()
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    iterations: int = 5

    def __post_init__(self):
        check_settings(self, ("momentum", "beta1", "beta2"))
        if self.iterations < 1:
            raise ValueError(f"Muon.iterations = {self.iterations} must be at least 1")

    def build(self, params, roles):
        def orthogonal(schedule, weight_decay):
            return muon(
                schedule,
                ns_steps=self.iterations,
                beta=self.momentum,
                weight_decay=weight_decay,
                muon_weight_dimension_numbers=stacked_matrices,
                consistent_rms=0.2,
            )

        of_matrices = at_rates(
            orthogonal, self.schedule.build(), self.weight_decay, roles, power=0.5
        )
        rest = AdamW(self.schedule, self.beta1, self.beta2, self.eps, self.weight_decay, None)
        update = optax.partition(
            {True: of_matrices, False: rest.build(params, roles)}, hidden_matrices(roles)
        )
        return clipped(self.clip_norm, update)


def stacked_matrices(params: Any) -> Any:
    """Which axes of each matrix, (..., inputs, outputs), are inputs and outputs."""
    return jax.tree.map(
        lambda p: MuonDimensionNumbers(reduction_axis=p.ndim - 2, output_axis=p.ndim - 1), params
    )
