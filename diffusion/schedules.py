"""Schedules alpha(t): the probability that a token is still data at time t, from 1 to 0.

A schedule gives log alpha and log(1 - alpha) from separate formulas, because 1 - alpha computed by
subtraction has no correct digit left in float32 once t < 1e-7, and the weight of the masked bound,
-alpha'/(1 - alpha), is largest exactly there. `Linear`, `Polynomial`, `Cosine` and `MDLMCosine` with
their defaults have exact ends, alpha(0) = 1 and alpha(1) = 0, and so no boundary term; with an eps, and
for `Geometric`, the process adds the terms that the ends cost.

Sources: MDLM (arXiv 2406.07524), MD4 (arXiv 2406.04329), SEDD (arXiv 2310.16834).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array


class Schedule(ABC):
    """Elementwise functions of t in [0, 1], each of the shape and dtype of t."""

    @abstractmethod
    def log_alpha(self, t: Array) -> Array:
        """log alpha(t)."""

    @abstractmethod
    def log1m_alpha(self, t: Array) -> Array:
        """log(1 - alpha(t))."""

    @abstractmethod
    def dalpha(self, t: Array) -> Array:
        """alpha'(t), not positive."""


def masked_weight(schedule: Schedule, t: Array) -> Array:
    """-alpha'(t) / (1 - alpha(t)), the weight of the masked bound; finite for t > 0."""
    return -schedule.dalpha(t) * jnp.exp(-schedule.log1m_alpha(t))


def _check_eps(name: str, eps: float, limit: float) -> None:
    if not 0 <= eps < limit:
        raise ValueError(
            f"{name} = {eps} is outside [0, {limit}); 0 gives a schedule with exact ends"
        )


@dataclass(frozen=True)
class Linear(Schedule):
    """alpha = 1 - (1 - eps) t, the log-linear noise of SEDD and MDLM (published with eps = 1e-3)."""

    eps: float = 0.0

    def __post_init__(self):
        _check_eps("Linear.eps", self.eps, 1)

    def log_alpha(self, t):
        return jnp.log1p(-(1 - self.eps) * t)

    def log1m_alpha(self, t):
        return jnp.log((1 - self.eps) * t)

    def dalpha(self, t):
        return jnp.full_like(t, -(1 - self.eps))


@dataclass(frozen=True)
class Polynomial(Schedule):
    """alpha = 1 - t^power (MD4)."""

    power: float = 2.0

    def __post_init__(self):
        if not self.power > 0:
            raise ValueError(f"Polynomial.power = {self.power} must be positive")

    def log_alpha(self, t):
        return jnp.log(-jnp.expm1(self.power * jnp.log(t)))

    def log1m_alpha(self, t):
        return self.power * jnp.log(t)

    def dalpha(self, t):
        return -self.power * t ** (self.power - 1)


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha = 1 - sin(pi t / 2), the cosine schedule of MD4."""

    def log_alpha(self, t):
        return jnp.log(2.0) + 2 * jnp.log(jnp.sin(jnp.pi / 4 * (1 - t)))

    def log1m_alpha(self, t):
        return jnp.log(jnp.sin(jnp.pi / 2 * t))

    def dalpha(self, t):
        return -jnp.pi / 2 * jnp.cos(jnp.pi / 2 * t)


@dataclass(frozen=True)
class MDLMCosine(Schedule):
    """alpha = eps + (1 - eps) cos(pi t / 2), the cosine schedule of MDLM (its eps is 1e-3)."""

    eps: float = 0.0

    def __post_init__(self):
        _check_eps("MDLMCosine.eps", self.eps, 1)

    def log_alpha(self, t):
        # cos(pi t / 2) as a sine of the distance to the end: exactly 0 at t = 1.
        return jnp.log(self.eps + (1 - self.eps) * jnp.sin(jnp.pi / 2 * (1 - t)))

    def log1m_alpha(self, t):
        return jnp.log(2 * (1 - self.eps)) + 2 * jnp.log(jnp.sin(jnp.pi / 4 * t))

    def dalpha(self, t):
        return -jnp.pi / 2 * (1 - self.eps) * jnp.sin(jnp.pi / 2 * t)


@dataclass(frozen=True)
class Geometric(Schedule):
    """alpha = exp(-sigma), sigma = sigma_min^(1 - t) sigma_max^t (SEDD)."""

    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self):
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"Geometric needs 0 < sigma_min < sigma_max, got {self.sigma_min}, {self.sigma_max}"
            )

    def sigma(self, t):
        return self.sigma_min ** (1 - t) * self.sigma_max**t

    def log_alpha(self, t):
        return -self.sigma(t)

    def log1m_alpha(self, t):
        return jnp.log(-jnp.expm1(-self.sigma(t)))

    def dalpha(self, t):
        sigma = self.sigma(t)
        return -(jnp.log(self.sigma_max) - jnp.log(self.sigma_min)) * sigma * jnp.exp(-sigma)


@dataclass(frozen=True)
class Squeezed(Schedule):
    """alpha = (1 - 2 eps) base(t) + eps: MD4's way to keep alpha inside (0, 1), eps = 1e-4 there."""

    base: Linear | Polynomial | Cosine = Linear()
    eps: float = 1e-4

    def __post_init__(self):
        _check_eps("Squeezed.eps", self.eps, 0.5)

    def log_alpha(self, t):
        return jnp.log((1 - 2 * self.eps) * jnp.exp(self.base.log_alpha(t)) + self.eps)

    def log1m_alpha(self, t):
        return jnp.log((1 - 2 * self.eps) * jnp.exp(self.base.log1m_alpha(t)) + self.eps)

    def dalpha(self, t):
        return (1 - 2 * self.eps) * self.base.dalpha(t)


def time_of(schedule: Schedule, log1m_alpha: Array) -> Array:
    """The t at which log(1 - alpha(t)) has the given values, by bisection; 0 or 1 beyond the ends."""
    low, high = jnp.zeros_like(log1m_alpha), jnp.ones_like(log1m_alpha)
    for _ in range(30):
        middle = (low + high) / 2
        below = schedule.log1m_alpha(middle) < log1m_alpha
        low, high = jnp.where(below, middle, low), jnp.where(below, high, middle)
    return high
