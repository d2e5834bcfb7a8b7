"""What a weight of times is: a frozen dataclass of settings in a file of its own, chosen by
`--set train.time_weight=NAME`."""

from abc import ABC, abstractmethod
from dataclasses import Field
from typing import Any, ClassVar

from jax import Array

from diffusion.process import Objective


class TimeWeight(ABC):
    """Weights of the times of a batch, in training alone: the bound that is reported keeps its own."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings

    @abstractmethod
    def __call__(self, process: Objective, u: Array) -> Array | float:
        """(B, 1), or one number: by how much the loss of each sequence is multiplied.

        u: as of `Objective.loss`, (B, 1) in (0, 1), from which the process takes its times. The weighted
        loss is divided by the number of tokens: weights are not normalised.
        """

    def check(self, process: Objective) -> None:  # noqa: B027, most have nothing to object
        """Nothing; ValueError where the process has no such weight."""
