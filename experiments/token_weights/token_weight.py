"""How much each token counts in the training loss: a frozen dataclass of settings in a file of its own,
chosen by `--set train.token_weight=NAME`. The bound that is reported never changes."""

from abc import ABC, abstractmethod
from dataclasses import Field
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array


class TokenWeight(ABC):
    """Weights of the tokens of a batch, in training alone."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings
    needs_reference: bool = False
    """Whether it compares with a reference run, `teacher` of the experiment."""

    @abstractmethod
    def __call__(self, x0: Array, nats: Array, reference: Array | None = None) -> Array:
        """(B, L): by how much the loss of each token is multiplied.

        x0: the tokens (B, L). nats: what each costs in training (B, L), for MDLM the weight of the time
        times the cross-entropy; 0 where a token is not masked, and of padding; no gradient flows through
        them. reference: the same of a reference run, at the same noisy state, where `needs_reference`,
        else None. The weighted loss is divided by the number of tokens: weights are not normalised. A
        row is to be weighted by itself: which rows are computed together is no part of the experiment.
        """


def kept(scores: Array, counted: Array, share: float) -> Array:
    """(B, L): weights 0 but for the `share`, rounded up, of the `counted` (B, L, bool) positions of each
    row that have the largest scores (B, L); those of a row sum to its number of counted positions."""
    scores = jnp.where(counted, scores, -jnp.inf)
    rank = jnp.argsort(jnp.argsort(-scores, axis=1, stable=True), axis=1)
    total = counted.sum(1, keepdims=True)
    most = jnp.ceil(total * share - 1e-4)  # the product may round up to more than it is
    return jnp.where(rank < most, total / jnp.maximum(most, 1), 0).astype(scores.dtype)
