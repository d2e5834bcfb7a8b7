"""Schedules alpha(t): the probability that a token is still data at time t, from 1 to 0.

A schedule of one's own is one method, alpha(t), of an `AlphaSchedule`, which derives the rest.

A `Schedule` gives log alpha and log(1 - alpha), each to full relative precision in float32 at both ends:
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

from diffusion.numerics import in_float64, log1mexp, log_quotient


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

    @abstractmethod
    def log_drop(self, t: Array, s: Array) -> Array:
        """log(alpha(s) - alpha(t)), s <= t; -inf where they are equal."""


# Times the root of eps, 1 / 64 in float32: such a difference is right to 1 / 45 of that root.
_DIRECT = 45


class AlphaSchedule(Schedule):
    """A schedule by alpha(t) alone; override what you know a formula of.

    What alpha falls by is a difference of its values where it is large, and where it is small an
    integral of -alpha', a sum of terms that are not negative. The derivative is by autodiff, so alpha is
    made of `jax.numpy` functions. In float32 alpha, 1 - alpha and what it falls by are right to 1e-5 of
    themselves up to t = 0.99, and beyond, where the times themselves are rounded, to 2e-7 / (1 - t): of
    a smooth alpha, also one like a power of t near 0. Each takes some 30 evaluations of alpha'.

    ValueError for an alpha that does not fall from about 1 (more than 0.9) to about 0 (less than 0.1) at
    257 times; a subclass with a `__post_init__` of its own calls that of this class.
    """

    @abstractmethod
    def alpha(self, t: Array) -> Array:
        """alpha(t), elementwise: of the shape and dtype of t, which has any rank."""

    def __post_init__(self):
        _ = self._ends

    def log_alpha(self, t):
        kept, masked = self._both(t)
        return _near_0(jnp.log(kept), masked)

    def log1m_alpha(self, t):
        kept, masked = self._both(t)
        # Where alpha is 1 still, the weight of the bound is 0, and not 0 / 0.
        masked = jnp.where(t > 0, jnp.maximum(masked, jnp.finfo(t.dtype).tiny), masked)
        return _near_0(jnp.log(masked), kept)

    def dalpha(self, t):
        return jnp.minimum(jax.jvp(self.alpha, (t,), (jnp.ones_like(t),))[1], 0)

    def log_drop(self, t, s):
        return jnp.log(self._drop(t, s))

    def _both(self, t):
        """alpha(t) and 1 - alpha(t), each to full relative precision."""
        noise_at_0, data_at_1 = self._ends
        kept = data_at_1 + self._drop(jnp.ones_like(t), t)
        return kept, noise_at_0 + self._drop(t, jnp.zeros_like(t))

    def _drop(self, t, s):
        """alpha(s) - alpha(t), s <= t."""
        difference = self.alpha(s) - self.alpha(t)
        nodes, weights = (
            jnp.asarray(a, t.dtype).reshape((1,) * t.ndim + a.shape) for a in _quadrature()
        )
        times = s[..., None] + (t - s)[..., None] * nodes
        # Within (0, 1): the slope may be infinite at the ends.
        numbers = jnp.finfo(t.dtype)
        slope = self.dalpha(jnp.clip(times, numbers.tiny, 1 - numbers.epsneg))
        integral = -(t - s) * jnp.sum(weights * slope, axis=-1)
        return jnp.where(difference > _DIRECT * numbers.eps**0.5, difference, integral)

    @functools.cached_property
    def _ends(self) -> tuple[float, float]:
        """1 - alpha(0) and alpha(1), exactly 0 where they are 0 but for rounding in float64."""
        name, times = f"{type(self).__name__}.alpha", np.linspace(0, 1, 257)
        try:
            alpha = in_float64(jax.jit(self.alpha), times)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} must be an elementwise function made of jax.numpy's: "
                f"{str(error).splitlines()[0]}"
            ) from error
        if alpha.shape != times.shape or not np.isfinite(alpha).all():
            raise ValueError(f"{name} must give a finite number for every t in [0, 1]")
        about = 0.9 < alpha[0] < 1 + 1e-6 and -1e-6 < alpha[-1] < 0.1
        if not about or np.diff(alpha).max() > 1e-6:
            raise ValueError(
                f"{name} goes from {alpha[0]:.4g} at t = 0 to {alpha[-1]:.4g} at t = 1, at most "
                f"{alpha.max():.4g}; it must fall from about 1 to about 0, and never rise"
            )
        masked, kept = (float(end) if end > 1e-12 else 0.0 for end in (1 - alpha[0], alpha[-1]))
        return masked, kept


@functools.cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Places in (0, 1) and weights of an integral over it: the trapezoidal rule in x, for the place
    1 / (1 + exp(-pi sinh x)), to which powers at the ends do no harm (Takahasi and Mori, 1974)."""
    x, step = np.linspace(-3.25, 3.25, 27, retstep=True)
    places = 1 / (1 + np.exp(-np.pi * np.sinh(x)))
    return places, step * np.pi * np.cosh(x) * places * (1 - places)


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

    # In parts, since a schedule by alpha alone takes some 30 numbers for each.
    parts = np.array_split(np.arange(1, num_steps + 1), -(-num_steps // 2**16))
    return num_steps * np.concatenate([[0.0], *(in_float64(reveal, k) for k in parts)])


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

    def log_alpha(self, t: Array) -> Array:
        log_alpha = jnp.log1p(-(1 - self.eps) * t)
        if self.eps == 0:  # 1 - t is exact near the end
            return log_alpha
        return jnp.where(t < 0.5, log_alpha, jnp.log(self.eps + (1 - self.eps) * (1 - t)))

    def log1m_alpha(self, t: Array) -> Array:
        return jnp.log((1 - self.eps) * t)

    def dalpha(self, t: Array) -> Array:
        return jnp.full_like(t, -(1 - self.eps))

    def log_drop(self, t: Array, s: Array) -> Array:
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

    def log_alpha(self, t: Array) -> Array:
        return log1mexp(self.log1m_alpha(t))

    def log1m_alpha(self, t: Array) -> Array:
        return self.power * jnp.log(t)

    def dalpha(self, t: Array) -> Array:
        return -self.power * t ** (self.power - 1)

    def log_drop(self, t: Array, s: Array) -> Array:
        return self.log1m_alpha(t) + log1mexp(self.power * log_quotient(s, t))


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha = 1 - sin(pi t / 2), the cosine schedule of MD4."""

    def log_alpha(self, t: Array) -> Array:
        log_alpha = jnp.log(2.0) + 2 * jnp.log(jnp.sin(jnp.pi / 4 * (1 - t)))
        return _near_0(log_alpha, jnp.sin(jnp.pi / 2 * t))

    def log1m_alpha(self, t: Array) -> Array:
        log1m_alpha = jnp.log(jnp.sin(jnp.pi / 2 * t))
        return _near_0(log1m_alpha, 2 * jnp.sin(jnp.pi / 4 * (1 - t)) ** 2)

    def dalpha(self, t: Array) -> Array:
        return -jnp.pi / 2 * jnp.sin(jnp.pi / 2 * (1 - t))

    def log_drop(self, t: Array, s: Array) -> Array:
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

    def log_alpha(self, t: Array) -> Array:
        return _near_0(jnp.log(self._alpha(t)), 2 * (1 - self.eps) * jnp.sin(jnp.pi / 4 * t) ** 2)

    def log1m_alpha(self, t: Array) -> Array:
        log1m_alpha = jnp.log(2 * (1 - self.eps)) + 2 * jnp.log(jnp.sin(jnp.pi / 4 * t))
        return _near_0(log1m_alpha, self._alpha(t))

    def _alpha(self, t):
        # cos(pi t / 2) as a sine of the distance to the end: exactly 0 at t = 1.
        return self.eps + (1 - self.eps) * jnp.sin(jnp.pi / 2 * (1 - t))

    def dalpha(self, t: Array) -> Array:
        return -jnp.pi / 2 * (1 - self.eps) * jnp.sin(jnp.pi / 2 * t)

    def log_drop(self, t: Array, s: Array) -> Array:
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

    def sigma(self, t: Array) -> Array:
        """sigma(t) = -log alpha(t), of the shape of t."""
        return self.sigma_min ** (1 - t) * self.sigma_max**t

    def log_alpha(self, t: Array) -> Array:
        return -self.sigma(t)

    def log1m_alpha(self, t: Array) -> Array:
        return log1mexp(-self.sigma(t))

    def dalpha(self, t: Array) -> Array:
        sigma = self.sigma(t)
        return -(jnp.log(self.sigma_max) - jnp.log(self.sigma_min)) * sigma * jnp.exp(-sigma)

    def log_drop(self, t: Array, s: Array) -> Array:
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

    def log_alpha(self, t: Array) -> Array:
        alpha, masked = self._both(t)
        return _near_0(jnp.log(alpha), masked)

    def log1m_alpha(self, t: Array) -> Array:
        alpha, masked = self._both(t)
        return _near_0(jnp.log(masked), alpha)

    def dalpha(self, t: Array) -> Array:
        return (1 - 2 * self.eps) * self.base.dalpha(t)

    def log_drop(self, t: Array, s: Array) -> Array:
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

    def halved(_, ends):
        low, high = ends
        middle = low + ((high - low) >> 1)
        t = jax.lax.bitcast_convert_type(middle, dtype)
        below = schedule.log1m_alpha(t) < log1m_alpha
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    ends = of(jnp.finfo(dtype).tiny), of(1.0)
    count = 30 if bits == jnp.int32 else 62
    high = jax.lax.fori_loop(0, count, halved, ends, unroll=2)[1]
    return jax.lax.bitcast_convert_type(high, dtype)
