"""What a network is told of the time t: the number whose sinusoids it reads.

The first is ours; the others are those of published networks, which were trained with them.
"""

from abc import ABC, abstractmethod
from dataclasses import Field, dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array


class TimeInput(ABC):
    """A port of `Transformer`. An implementation is a frozen dataclass of settings."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings

    @abstractmethod
    def __call__(self, t: Array) -> Array:
        """The number that sinusoids are made of, float32 of the shape of t, from times t in [0, 1]."""


@dataclass(frozen=True)
class Thousandfold(TimeInput):
    """1000 t, as in diffusion models of images."""

    def __call__(self, t):
        return 1000 * t


@dataclass(frozen=True)
class Plain(TimeInput):
    """t itself, as in GIDD (arXiv 2503.04482)."""

    def __call__(self, t):
        return t


@dataclass(frozen=True)
class LogLinearNoise(TimeInput):
    """-log(1 - (1 - eps) t), the total noise of a log-linear schedule, as in SEDD, UDLM and Duo.

    eps: alpha(1), the share of tokens that is left at t = 1.
    """

    eps: float = 1e-3

    def __call__(self, t):
        return -jnp.log1p(-(1 - self.eps) * t)


@dataclass(frozen=True)
class GeometricNoise(TimeInput):
    """low^(1 - t) high^t, the total noise of a geometric schedule, as in SEDD.

    low, high: the noise at t = 0 and t = 1.
    """

    low: float = 1e-4
    high: float = 20.0

    def __post_init__(self):
        if not 0 < self.low < self.high:
            raise ValueError(
                f"GeometricNoise.low = {self.low} and high = {self.high} must rise from above 0"
            )

    def __call__(self, t):
        return self.low ** (1 - t) * self.high**t
