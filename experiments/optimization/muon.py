"""Muon for the matrices of the layers, AdamW for all else, by `optax.contrib`.

The update of a matrix is its momentum with all singular values set to about 1, by Newton and Schulz's
iteration (K. Jordan, 2024), scaled by 0.2 sqrt(max(inputs, outputs)), so that it has the size of AdamW's
and one learning rate serves both (arXiv 2502.16982). Layers are stored stacked, (N, inputs, outputs):
each of the N matrices is made orthogonal by itself.
"""

from dataclasses import dataclass

import jax
from optax.contrib import MuonDimensionNumbers, muon

from experiments.optimization.optimizer import LearningRate, Optimizer, check_settings, clipped
from experiments.optimization.warmup_constant import WarmupConstant


@dataclass(frozen=True)
class Muon(Optimizer):
    """schedule: the learning rate, of matrices and all else alike. momentum: decay rate of the mean of
    gradients of matrices; beta1, beta2: AdamW's, of all else. eps: added to its root of squares.
    weight_decay acts on the matrices of the layers. clip_norm: the largest global norm of a gradient,
    None for any. iterations: of Newton and Schulz.
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

    def build(self, params):
        update = muon(
            self.schedule.build(),
            ns_steps=self.iterations,
            beta=self.momentum,
            eps=self.eps,
            weight_decay=self.weight_decay,
            adam_b1=self.beta1,
            adam_b2=self.beta2,
            muon_weight_dimension_numbers=stacked_matrices,
            consistent_rms=0.2,
        )
        return clipped(self.clip_norm, update)


def stacked_matrices(params: dict) -> dict:
    """Which axes of each parameter are inputs and outputs of a layer's matrix, (..., inputs, outputs);
    None of what is none."""

    def axes(path, leaf):
        if path[-1].key != "kernel" or "layers" not in [key.key for key in path]:
            return None
        return MuonDimensionNumbers(reduction_axis=leaf.ndim - 2, output_axis=leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)
