"""What an optimiser and a learning-rate schedule are: each is a frozen dataclass of settings in a file
of its own, chosen by `--set optimizer=NAME` and `--set optimizer.schedule=NAME`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import Field
from typing import Any, ClassVar

import jax
import optax

from models.roles import Matrix


class LearningRate(ABC):
    """A learning rate that depends on the step; `peak_lr` is the largest."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings
    peak_lr: float

    @abstractmethod
    def build(self) -> optax.Schedule:
        """The rate as a function of the number of updates before this one."""

    def check(self) -> None:
        """Nothing; ValueError for settings that no schedule can have."""
        for name in ("peak_lr", "warmup_steps", "decay_steps", "stable_steps", "final_lr"):
            value = vars(self).get(name, 0)
            if value < 0:
                raise ValueError(f"{type(self).__name__}.{name} = {value} must not be negative")
        decay, warmup = vars(self).get("decay_steps"), vars(self).get("warmup_steps", 0)
        if decay is not None and decay <= warmup:
            raise ValueError(
                f"{type(self).__name__}.decay_steps = {decay} must exceed warmup_steps = {warmup}"
            )


class Optimizer(ABC):
    """How gradients become updates. `schedule` is its learning rate."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings
    schedule: LearningRate

    @abstractmethod
    def build(self, params: dict, roles: dict) -> optax.GradientTransformation:
        """The transformation of gradients of `params`, a nested dict of arrays or of their shapes, into
        what is added to them: the learning rate and its sign are in it.

        roles: what each of them is, a `models.roles.Role` in its place.
        """


def warmed_up(peak: float, warmup_steps: int, after: optax.Schedule) -> optax.Schedule:
    """`after`, counted from the end of a linear rise to `peak`, whose first rate is above zero."""
    if warmup_steps == 0:
        return after
    warmup = optax.linear_schedule(peak / warmup_steps, peak, warmup_steps - 1 or 1)
    return optax.join_schedules([warmup, after], [warmup_steps])


def clipped(
    norm: float | None, update: optax.GradientTransformation
) -> optax.GradientTransformation:
    """The update of gradients whose global norm is at most `norm`; None clips nothing."""
    return optax.chain(optax.clip_by_global_norm(norm) if norm else optax.identity(), update)


def matrices(roles: dict) -> dict:
    """Whether each parameter is the matrix of a dense layer, which weight decay acts on."""
    return jax.tree.map(lambda role: isinstance(role, Matrix), roles)


def hidden_matrices(roles: dict) -> dict:
    """Whether each parameter is a matrix that leads from activations to activations."""
    return jax.tree.map(lambda role: isinstance(role, Matrix) and role.hidden, roles)


def at_rates(
    build: Callable[[optax.Schedule, float], optax.GradientTransformation],
    schedule: optax.Schedule,
    weight_decay: float,
    roles: dict,
    power: float = 1.0,
) -> optax.GradientTransformation:
    """build(schedule, weight_decay), for matrices whose role has another rate than 1 with the schedule
    times the power of that rate, and the decay over it, so that their product is as it was."""
    factors = jax.tree.map(lambda r: r.rate**power if isinstance(r, Matrix) else 1.0, roles)
    if all(factor == 1 for factor in jax.tree.leaves(factors)):
        return build(schedule, weight_decay)
    labels = jax.tree.map(str, factors)
    kinds: dict[Hashable, optax.GradientTransformation] = {
        str(factor): build(_times(schedule, factor), weight_decay / factor)
        for factor in jax.tree.leaves(factors)
    }
    return optax.partition(kinds, labels)


def _times(schedule: optax.Schedule, factor: float) -> optax.Schedule:
    return lambda step: factor * schedule(step)


def check_settings(optimizer: Optimizer, betas: tuple[str, ...]) -> None:
    """Nothing; ValueError for a decay rate outside of [0, 1), or a negative eps, decay or clipping."""
    name = type(optimizer).__name__
    for setting in betas:
        if not 0 <= getattr(optimizer, setting) < 1:
            raise ValueError(f"{name}.{setting} = {getattr(optimizer, setting)} is outside [0, 1)")
    for setting in ("eps", "weight_decay"):
        if vars(optimizer)[setting] < 0:
            raise ValueError(f"{name}.{setting} = {vars(optimizer)[setting]} must not be negative")
    norm = vars(optimizer)["clip_norm"]
    if norm is not None and norm <= 0:
        raise ValueError(f"{name}.clip_norm = {norm} must be positive, or None")
