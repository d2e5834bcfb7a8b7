"""How noise grows in a normal process: gamma(t) = -log SNR(t), rising from t = 0 to t = 1.

A schedule of one's own is one method, gamma(t), of a `LogSNR`. Between the same ends the bound of a
normal process does not depend on the form of gamma (`diffusion.gaussian`), only its variance does. So a
learned schedule (VDM, arXiv 2107.00630; Plaid, arXiv 2305.18619),

    gamma(t) = gamma_0 + (gamma_1 - gamma_0) shape(t),    shape(t) = (f(t) - f(0)) / (f(1) - f(0)),
    f(t) = sum_k softplus(w_k) tanh(softplus(v_k) (t - 1/2) + b_k),

learns its ends by the gradient of the loss, and its shape by that of the square of the loss.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.numerics import in_float64
from diffusion.random import normal, split

LARGEST = 20.0  # of |gamma|: beyond it float32 does not tell noise from none


class LogSNR(ABC):
    """gamma(t); an implementation is a frozen dataclass of settings.

    ValueError for a gamma that falls somewhere on 257 times, or leaves [-20, 20]; a subclass with a
    `__post_init__` of its own calls that of this class.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings
    learned: ClassVar[bool] = False
    """Whether `init` makes parameters."""

    @abstractmethod
    def gamma(self, t: Array) -> Array:
        """-log SNR at t, elementwise, made of functions of `jax.numpy`."""

    def rate(self, t: Array) -> Array:
        """d gamma / dt, of the shape of t."""
        return jax.jvp(self.gamma, (t,), (jnp.ones_like(t),))[1]

    def time(self, gamma: Array) -> Array:
        """t at which -log SNR is gamma, elementwise, between the two ends: the inverse, by halving."""

        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            above = self.gamma(middle) > gamma
            return jnp.where(above, low, middle), jnp.where(above, middle, high)

        times = 50 if gamma.dtype == jnp.float64 else 24
        ends = jnp.zeros_like(gamma), jnp.ones_like(gamma)
        low, high = jax.lax.fori_loop(0, times, halve, ends)
        return (low + high) / 2

    def in_training(self, t: Array) -> tuple[Array, Array, Callable[[Array], Array]]:
        """(gamma, its rate, finish), t (B, 1): in the loss, nats (B, L) of which the schedule is to see
        the gradient are finish(nats), the same number."""
        return self.gamma(t), self.rate(t), lambda nats: nats

    def init(self, key: Array) -> dict:
        """Parameters of the schedule; {} where it has none."""
        return {}

    def bind(self, params: dict) -> Self:
        """The schedule with the parameters that `init` made and training changed."""
        return self

    def __post_init__(self):
        gamma = in_float64(self.gamma, np.linspace(0, 1, 257))
        where = f"{type(self).__name__}: gamma = -log SNR goes from {gamma[0]:.4g} at t = 0 to "
        where += f"{gamma[-1]:.4g} at t = 1"
        if not np.abs(gamma).max() <= LARGEST:  # nor where it is no number
            raise ValueError(
                f"{where}; it must stay where float32 tells noise from none, between -{LARGEST:g} and "
                f"{LARGEST:g}"
            )
        if np.diff(gamma).min() < 0 or gamma[0] == gamma[-1]:
            raise ValueError(f"{where}; it must rise, and never fall in between")


@dataclass(frozen=True)
class LinearLogSNR(LogSNR):
    """gamma = start + (end - start) t.

    start: -log SNR at t = 0. end: at t = 1, above start.
    """

    start: float = -6.0
    end: float = 8.0

    def gamma(self, t: Array) -> Array:
        return self.start + (self.end - self.start) * t

    def rate(self, t: Array) -> Array:
        return jnp.full_like(t, self.end - self.start)

    def time(self, gamma: Array) -> Array:
        return (gamma - self.start) / (self.end - self.start)


@dataclass(frozen=True)
class SqrtLogSNR(LogSNR):
    """sigma^2 = sqrt(a^2 + (b^2 - a^2) t): 1 - alpha^2 is a root of time, as in Diffusion-LM (arXiv
    2205.14217), with a = `noise` and b = 1 - `signal` for ends that are positive.

    noise: a, the variance of the noise at t = 0. signal: alpha^2 at t = 1, what is left of the data.
    """

    noise: float = 0.01
    signal: float = 2e-4

    def __post_init__(self):
        if not (0 < self.noise < 1 and 0 < self.signal < 1):
            raise ValueError(
                f"SqrtLogSNR.noise = {self.noise} and signal = {self.signal} must lie between 0 and 1, "
                "the shares of noise at t = 0 and of the data at t = 1"
            )
        super().__post_init__()

    @property
    def _ends(self) -> tuple[float, float]:
        """The squares of sigma^2 at t = 0 and t = 1."""
        return self.noise**2, (1 - self.signal) ** 2

    def gamma(self, t: Array) -> Array:
        start, end = self._ends
        noise = jnp.sqrt(start + (end - start) * t)
        # 1 - sigma^2 = (1 - sigma^4) / (1 + sigma^2), of a sum of positive terms.
        rest = (self.signal * (2 - self.signal) + (end - start) * (1 - t)) / (1 + noise)
        return jnp.log(noise) - jnp.log(rest)

    def time(self, gamma: Array) -> Array:
        start, end = self._ends
        return jnp.clip((jax.nn.sigmoid(gamma) ** 2 - start) / (end - start), 0, 1)


@dataclass(frozen=True)
class CosineLogSNR(LogSNR):
    """alpha = cos(pi t / 2), of times between which -log SNR stays within a limit: gamma = 2 log
    tan(pi t' / 2) with t' from one end to the other as t goes from 0 to 1.

    limit: the largest |gamma|.
    """

    limit: float = 15.0

    def __post_init__(self):
        if not self.limit > 0:
            raise ValueError(f"CosineLogSNR.limit = {self.limit} must be positive")
        super().__post_init__()

    @property
    def _start(self) -> float:
        """The angle pi t' / 2 at t = 0; at t = 1 it is pi / 2 less that."""
        return math.atan(math.exp(-self.limit / 2))

    def gamma(self, t: Array) -> Array:
        # cos(a) = sin(pi / 2 - a), which is exact at t = 1, too.
        span = math.pi / 2 - 2 * self._start
        sines = (jnp.sin(self._start + span * share) for share in (t, 1 - t))
        sine, cosine = map(jnp.log, sines)
        return 2 * (sine - cosine)

    def time(self, gamma: Array) -> Array:
        angle = jnp.arctan(jnp.exp(gamma / 2))
        return jnp.clip((angle - self._start) / (math.pi / 2 - 2 * self._start), 0, 1)


@dataclass(frozen=True)
class NoiseRescaled(LogSNR):
    """A schedule with `factor` times the noise, z = alpha e(x0) + factor sigma eps, scaled back to a
    variance of 1: gamma = that of the base + 2 log factor (Difformer, arXiv 2212.09412).

    base: the schedule, one that is not learned. factor: F, by how much the standard deviation of the
    noise is multiplied.
    """

    base: LogSNR = SqrtLogSNR()
    factor: float = 4.0

    def __post_init__(self):
        if self.base.learned:
            raise ValueError(
                f"NoiseRescaled.base = {type(self.base).__name__} is learned, and so is how much noise "
                "it has; take the schedule itself"
            )
        if not self.factor > 0:
            raise ValueError(f"NoiseRescaled.factor = {self.factor} must be positive")
        super().__post_init__()

    def gamma(self, t: Array) -> Array:
        return self.base.gamma(t) + 2 * math.log(self.factor)

    def rate(self, t: Array) -> Array:
        return self.base.rate(t)

    def time(self, gamma: Array) -> Array:
        return self.base.time(gamma - 2 * math.log(self.factor))


@dataclass(frozen=True)
class LearnedLogSNR(LogSNR):
    """A monotone network, learned with the model. Before `bind`, what training starts from.

    start, end: -log SNR at t = 0 and t = 1 at the start, less the shift. shift: what is added to all of
    it; with log D, ends for embeddings of norm 1 are those of the same process at norm sqrt(D). width:
    how many terms f has. learns_ends: whether training changes the ends. learns_shape: whether it
    changes the shape between them. speed: how many times as fast as the network it learns: parameters
    are stored divided by it, and steps of Adam are of one size.
    """

    start: float = -0.2
    end: float = 8.8
    shift: float = 0.0
    width: int = 1024
    learns_ends: bool = True
    learns_shape: bool = True
    speed: float = 1.0
    learned: ClassVar[bool] = True

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"LearnedLogSNR.width = {self.width} must be at least 1")
        if not self.speed > 0:
            raise ValueError(f"LearnedLogSNR.speed = {self.speed} must be positive")
        super().__post_init__()

    def init(self, key: Array) -> dict:
        """{"ends": (2,), "inner": (N,), "offset": (N,), "outer": (N,)}, N = width."""
        keys = dict(zip(("inner", "offset", "outer"), split(key, 3), strict=True))
        shape = {name: normal(k, (self.width,)) for name, k in keys.items()}
        params = {"ends": jnp.array([self.start, self.end], jnp.float32), **shape}
        return {name: value / self.speed for name, value in params.items()}

    def bind(self, params: dict) -> Self:
        bound = copy.copy(self)
        vars(bound)["_params"] = {
            name: self.speed * (value if self._learns(name) else jax.lax.stop_gradient(value))
            for name, value in params.items()
        }
        return bound

    def _learns(self, name: str) -> bool:
        return self.learns_ends if name == "ends" else self.learns_shape

    @property
    def _bound(self) -> dict:
        if "_params" in vars(self):
            return vars(self)["_params"]
        return {name: self.speed * value for name, value in self.init(jax.random.key(0)).items()}

    def gamma(self, t: Array) -> Array:
        return self._at(self.shape(t))

    def in_training(self, t):
        shape, message = _send(self.shape(t))
        slope, of_slope = _send(jax.jvp(self.shape, (t,), (jnp.ones_like(t),))[1])
        start, end = self._bound["ends"].astype(t.dtype)

        def finish(nats):
            return _answer(nats, message, of_slope)

        return self._at(shape), (end - start) * slope, finish

    def _at(self, shape):
        start, end = self._bound["ends"].astype(shape.dtype)
        return start + (end - start) * shape + self.shift

    def shape(self, t: Array) -> Array:
        """shape(t), from 0 to 1, of the shape of t."""
        params = {name: value.astype(t.dtype) for name, value in self._bound.items()}
        inner, outer = (jax.nn.softplus(params[name]) for name in ("inner", "outer"))
        inner, offset = (a.reshape((1,) * t.ndim + a.shape) for a in (inner, params["offset"]))

        def f(t):
            return jnp.tanh((t[..., None] - 0.5) * inner + offset) @ outer

        low, high = (f(jnp.full((1,) * t.ndim, end, t.dtype)) for end in (0.0, 1.0))
        return (f(t) - low) / (high - low)


@jax.custom_vjp
def _send(x: Array) -> tuple[Array, Array]:
    """(x, 0): the gradient of x is multiplied by what `_answer` says of the second."""
    return x, jnp.zeros_like(x)


_send.defvjp(lambda x: (_send(x), None), lambda _, cotangents: (cotangents[0] * cotangents[1],))


@jax.custom_vjp
def _answer(nats: Array, *messages: Array) -> Array:
    """nats (B, L); in the backward pass each of the messages (B, 1) is told twice their mean, so that
    what was sent has the gradient of the square of a row's loss."""
    return nats


_answer.defvjp(
    lambda nats, *messages: (nats, (nats, messages)),
    lambda kept, g: (g, *(_told(kept[0], message) for message in kept[1])),
)


def _told(nats, message):
    return jnp.broadcast_to(2 * nats.mean(-1, keepdims=True), message.shape).astype(message.dtype)
