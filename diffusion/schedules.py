"""Schedules alpha(t): the probability that a token is still data at time t, from 1 to 0.

A schedule gives log alpha and log(1 - alpha), each to full relative precision in float32 at both ends:
1 - alpha computed by subtraction has no correct digit left once t < 1e-7, where the weight of the masked
bound, -alpha'/(1 - alpha), is largest, nor has alpha computed from 1 - alpha near t = 1. For the same
reason what alpha falls by in a step has a formula of its own, `log_drop`. `Linear`, `Polynomial`,
`Cosine` and `MDLMCosine` with their defaults have exact ends, alpha(0) = 1 and alpha(1) = 0, and so no
boundary term; with an eps, and for `Geometric`, the process adds the terms that the ends cost.

Sources: MDLM (arXiv 2406.07524), MD4 (arXiv 2406.04329), SEDD (arXiv 2310.16834).
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.numerics import in_float64, log1mexp, log_divide, log_quotient


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

    def log_drop(self, t: Array, s: Array) -> Array:
        """log(alpha(s) - alpha(t)), s <= t; -inf where they are equal.

        A closed form is best. This follows from alpha or from 1 - alpha, of the two the one that changes
        by the larger factor: it loses fewer digits.
        """
        kept = jnp.minimum(log_divide(self.log_alpha(t), self.log_alpha(s)), 0)
        masked = jnp.minimum(log_divide(self.log1m_alpha(s), self.log1m_alpha(t)), 0)
        by_alpha = self.log_alpha(s) + log1mexp(kept)
        return jnp.where(kept < masked, by_alpha, self.log1m_alpha(t) + log1mexp(masked))


def masked_weight(schedule: Schedule, t: Array) -> Array:
    """-alpha'(t) / (1 - alpha(t)), the weight of the masked bound; finite for t > 0."""
    return -schedule.dalpha(t) * jnp.exp(-schedule.log1m_alpha(t))


@functools.lru_cache(maxsize=16)
def masked_weights(schedule: Schedule, num_steps: int) -> np.ndarray:
    """T (alpha(s) - alpha(t)) / (1 - alpha(t)) at t = k / T and s = (k - 1) / T, (T + 1,) for k = 0..T,
    float64: the weights of the masked bound on a grid of T = `num_steps` steps. At k = 0 it is 0.

    Made in float64, because in float32 already the rounding of k / T is a large part of 1 / T.
    """

    def reveal(k):
        t, s = k / num_steps, (k - 1) / num_steps
        return jnp.exp(schedule.log_drop(t, s) - schedule.log1m_alpha(t))

    return num_steps * np.append(0.0, in_float64(reveal, np.arange(1, num_steps + 1)))


def _check_eps(name: str, eps: float, limit: float) -> None:
    if not 0 <= eps < limit:
        raise ValueError(
            f"{name} = {eps} is outside [0, {limit}); 0 gives a schedule with exact ends"
        )


@dataclass(frozen=True)
class Linear(Schedule):
    """alpha = 1 - (1 - eps) t, the log-linear noise of SEDD and MDLM.

    eps: what is kept of the data at t = 1; published with 1e-3, and 0 gives exact ends.
    """

    eps: float = 0.0

    def __post_init__(self):
        _check_eps("Linear.eps", self.eps, 1)

    def log_alpha(self, t):
        log_alpha = jnp.log1p(-(1 - self.eps) * t)
        if self.eps == 0:  # 1 - t is exact near the end
            return log_alpha
        return jnp.where(t < 0.5, log_alpha, jnp.log(self.eps + (1 - self.eps) * (1 - t)))

    def log1m_alpha(self, t):
        return jnp.log((1 - self.eps) * t)

    def dalpha(self, t):
        return jnp.full_like(t, -(1 - self.eps))

    def log_drop(self, t, s):
        return jnp.log((1 - self.eps) * (t - s))


@dataclass(frozen=True)
class Polynomial(Schedule):
    """alpha = 1 - t^power (MD4).

    power: above 0; 1 is `Linear`, larger ones keep tokens for longer.
    """

    power: float = 2.0

    def __post_init__(self):
        if not self.power > 0:
            raise ValueError(f"Polynomial.power = {self.power} must be positive")

    def log_alpha(self, t):
        return log1mexp(self.log1m_alpha(t))

    def log1m_alpha(self, t):
        return self.power * jnp.log(t)

    def dalpha(self, t):
        return -self.power * t ** (self.power - 1)

    def log_drop(self, t, s):
        return self.log1m_alpha(t) + log1mexp(self.power * log_quotient(s, t))


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha = 1 - sin(pi t / 2), the cosine schedule of MD4."""

    def log_alpha(self, t):
        log_alpha = jnp.log(2.0) + 2 * jnp.log(jnp.sin(jnp.pi / 4 * (1 - t)))
        return _near_0(log_alpha, jnp.sin(jnp.pi / 2 * t))

    def log1m_alpha(self, t):
        log1m_alpha = jnp.log(jnp.sin(jnp.pi / 2 * t))
        return _near_0(log1m_alpha, 2 * jnp.sin(jnp.pi / 4 * (1 - t)) ** 2)

    def dalpha(self, t):
        return -jnp.pi / 2 * jnp.sin(jnp.pi / 2 * (1 - t))

    def log_drop(self, t, s):
        # cos(pi / 4 (t + s)) as a sine of the distances to the end, where it is 0.
        slope = jnp.sin(jnp.pi / 4 * ((1 - t) + (1 - s)))
        return jnp.log(2 * slope * jnp.sin(jnp.pi / 4 * (t - s)))


@dataclass(frozen=True)
class MDLMCosine(Schedule):
    """alpha = eps + (1 - eps) cos(pi t / 2), the cosine schedule of MDLM.

    eps: what is kept of the data at t = 1; published with 1e-3, and 0 gives exact ends.
    """

    eps: float = 0.0

    def __post_init__(self):
        _check_eps("MDLMCosine.eps", self.eps, 1)

    def log_alpha(self, t):
        return _near_0(jnp.log(self._alpha(t)), 2 * (1 - self.eps) * jnp.sin(jnp.pi / 4 * t) ** 2)

    def log1m_alpha(self, t):
        log1m_alpha = jnp.log(2 * (1 - self.eps)) + 2 * jnp.log(jnp.sin(jnp.pi / 4 * t))
        return _near_0(log1m_alpha, self._alpha(t))

    def _alpha(self, t):
        # cos(pi t / 2) as a sine of the distance to the end: exactly 0 at t = 1.
        return self.eps + (1 - self.eps) * jnp.sin(jnp.pi / 2 * (1 - t))

    def dalpha(self, t):
        return -jnp.pi / 2 * (1 - self.eps) * jnp.sin(jnp.pi / 2 * t)

    def log_drop(self, t, s):
        sines = jnp.sin(jnp.pi / 4 * (t + s)) * jnp.sin(jnp.pi / 4 * (t - s))
        return jnp.log(2 * (1 - self.eps) * sines)


@dataclass(frozen=True)
class Geometric(Schedule):
    """alpha = exp(-sigma), sigma = sigma_min^(1 - t) sigma_max^t (SEDD).

    sigma_min: sigma at t = 0, above 0. sigma_max: sigma at t = 1.
    """

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
        return log1mexp(-self.sigma(t))

    def dalpha(self, t):
        sigma = self.sigma(t)
        return -(jnp.log(self.sigma_max) - jnp.log(self.sigma_min)) * sigma * jnp.exp(-sigma)

    def log_drop(self, t, s):
        log_ratio = jnp.log(self.sigma_max) - jnp.log(self.sigma_min)
        gained = -self.sigma(t) * jnp.expm1(-log_ratio * (t - s))  # sigma(t) - sigma(s)
        return -self.sigma(s) + log1mexp(-gained)


@dataclass(frozen=True)
class RescaledSchedule(Schedule):
    """alpha = (1 - 2 eps) base(t) + eps: MD4's way to keep alpha inside (0, 1).

    base: the schedule that is rescaled. eps: the distance of alpha from 0 and 1 at the ends; MD4 has
    1e-4.
    """

    base: Linear | Polynomial | Cosine = Linear()
    eps: float = 1e-4

    def __post_init__(self):
        _check_eps("RescaledSchedule.eps", self.eps, 0.5)

    def log_alpha(self, t):
        alpha, masked = self._both(t)
        return _near_0(jnp.log(alpha), masked)

    def log1m_alpha(self, t):
        alpha, masked = self._both(t)
        return _near_0(jnp.log(masked), alpha)

    def dalpha(self, t):
        return (1 - 2 * self.eps) * self.base.dalpha(t)

    def log_drop(self, t, s):
        return jnp.log1p(-2 * self.eps) + self.base.log_drop(t, s)

    def _both(self, t):
        """alpha(t) and 1 - alpha(t)."""
        logs = self.base.log_alpha(t), self.base.log1m_alpha(t)
        return tuple((1 - 2 * self.eps) * jnp.exp(log) + self.eps for log in logs)


def _near_0(log_p: Array, rest: Array) -> Array:
    """log p from two formulas: `log_p`, and from rest = 1 - p where that is the smaller of the two."""
    small = rest < 0.5
    return jnp.where(small, jnp.log1p(-jnp.where(small, rest, 0)), log_p)


def time_of(schedule: Schedule, log1m_alpha: Array) -> Array:
    """The t at which log(1 - alpha(t)) has the given values; the ends, 1 or all but 0, beyond them.

    By bisection of the bits of t, which rise with t: down to neighbours, however small t is.
    """
    dtype = log1m_alpha.dtype
    bits = jnp.dtype(f"int{8 * dtype.itemsize}")

    def of(t):
        return jax.lax.bitcast_convert_type(jnp.full_like(log1m_alpha, t), bits)

    low, high = of(jnp.finfo(dtype).tiny), of(1.0)
    for _ in range(30 if bits == jnp.int32 else 62):
        middle = low + (high - low) // 2
        t = jax.lax.bitcast_convert_type(middle, dtype)
        below = schedule.log1m_alpha(t) < log1m_alpha
        low, high = jnp.where(below, middle, low), jnp.where(below, high, middle)
    return jax.lax.bitcast_convert_type(high, dtype)
