"""What a weight of times is: a frozen dataclass of settings in a file of its own, chosen by
`--set train.time_weight=NAME`. One that also chooses times or noise overrides `loss`."""

from abc import ABC, abstractmethod
from dataclasses import Field
from typing import Any, ClassVar

from jax import Array

from diffusion.model import Model
from diffusion.process import Objective


class TimeWeight(ABC):
    """Weights of the times of a batch, in training alone: the bound that is reported keeps its own."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings

    @abstractmethod
    def __call__(self, process: Objective, u: Array, x0: Array, key: Array) -> Array | float:
        """(B, 1), or one number: by how much the loss of each sequence is multiplied; (B, L) for a
        weight of each position.

        u, x0, key: those of `Objective.loss`; u (B, 1) in (0, 1) is what the process takes its times
        from, and where it has the loss of `Process`, its noisy state is process.corrupt(key, x0,
        process.time(u)). The weighted loss is divided by the number of tokens: weights are not
        normalised.
        """

    def loss(self, process: Objective, key: Array, model: Model, x0: Array, u: Array) -> Array:
        """(B, L): the weighted loss, of what `Objective.loss` is given."""
        loss = process.loss(key, model, x0, u)
        return self(process, u, x0, key) * loss

    def init(self) -> dict:
        """What it learns while training, before the first step: arrays, part of the training state; {}
        where it learns nothing. The three methods below are asked of one that does."""
        return {}

    def draw(self, learned: dict, u: Array) -> tuple[Array, Array]:
        """(u', by how much the loss there is multiplied), (B, 1) each, of u (B, 1) uniform in (0, 1)."""
        raise NotImplementedError(f"{type(self).__name__} learns nothing")

    def observe(self, u: Array, nats: Array) -> dict:
        """Sums over the sequences of a microbatch, to be added to those of others: of u (B, 1) as drawn
        and the loss there, nats (B, L), before it is multiplied."""
        raise NotImplementedError(f"{type(self).__name__} learns nothing")

    def learn(self, learned: dict, observed: dict) -> dict:
        """What it knows after a step with the sums `observed`."""
        raise NotImplementedError(f"{type(self).__name__} learns nothing")

    def check(self, process: Objective) -> None:  # noqa: B027, most have nothing to object
        """Nothing; ValueError where the process has no such weight."""
