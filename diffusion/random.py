"""Draws that do not depend on batch layout, and categorical draws that are exact for rare events.

All take one key, or one key per row of the batch (see `diffusion.process`).

Why not `jax.random.categorical`: its default Gumbel noise in float32 never exceeds 15.95, so events
rarer than about e^-16 are not drawn at all, which acts as a hidden temperature (arXiv 2409.02908),
and it spends V random numbers where two do.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

_LOG_RARE = -12 * math.log(2)
_ONE_SUM = 1024  # values up to which one cumulative sum is taken
_HIGHEST = 1 - 2.0**-24  # the largest float32 below 1, so that a draw is never exactly 1


def _typed(key: Array) -> Array:
    """A typed key array, also from the raw uint32 keys of `jax.random.PRNGKey`."""
    return jax.random.wrap_key_data(key) if key.dtype == jnp.uint32 else key


def _draw(key: Array, draw, shape: tuple[int, ...]) -> Array:
    """draw(key, shape) of one key, or draw(key, shape of a row) for every row with a key each."""
    key = _typed(key)
    if key.ndim == 0:
        return draw(key, shape)
    if key.shape != shape[:1]:
        raise ValueError(
            f"{key.shape} keys for a batch of {shape[0]} rows: pass one key, or one per row"
        )
    return jax.vmap(lambda k: draw(k, shape[1:]))(key)


def split(key: Array, num: int = 2) -> Array:
    """(num,) keys from one key, (num, B) from a key per row."""
    key = _typed(key)
    if key.ndim == 0:
        return jax.random.split(key, num)
    return jax.vmap(lambda k: jax.random.split(k, num), out_axes=1)(key)


def fold_in(key: Array, data) -> Array:
    """The key, or each row's key, with an integer folded in."""
    key = _typed(key)
    if key.ndim == 0:
        return jax.random.fold_in(key, data)
    return jax.vmap(lambda k: jax.random.fold_in(k, data))(key)


def bits(key: Array, shape: tuple[int, ...]) -> Array:
    """uint32 random bits of `shape` (B, ...), from one key or a key per row."""
    return _draw(key, lambda k, shape: jax.random.bits(k, shape, "uint32"), shape)


def normal(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Standard normal draws of `shape` (B, ...)."""
    return _draw(key, lambda k, shape: jax.random.normal(k, shape, dtype), shape)


def signs(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """-1 or 1, each with probability a half, of `shape` (B, ...)."""
    return _draw(key, lambda k, shape: jax.random.rademacher(k, shape, dtype), shape)


def log_exponential(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """log of exponential draws of `shape` (B, ...), fine for small ones; none exceeds 16.6."""
    return jnp.log(-jnp.log1p(-uniform(key, shape, dtype)))


def log_gamma(key: Array, conc: Array) -> Array:
    """log of gamma draws with the concentrations `conc` (B, ...)."""
    key = _typed(key)
    if key.ndim == 0:
        return jax.random.loggamma(key, conc)
    return jax.vmap(jax.random.loggamma)(key, conc)


def uniform(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Draws of `shape` (B, ...) from the open interval (0, 1), with full relative precision near 0.

    P(draw < p) = p to a relative error of 2^-23 for p down to 2^-40, where the usual multiples of
    2^-23 would round p. Near 1 the grid is that of the dtype.
    """
    high, low = (bits(k, shape).astype(dtype) for k in split(key))
    return jnp.clip((high + (low + 0.5) * 2.0**-32) * 2.0**-32, 2.0**-65, _HIGHEST)


def categorical(key: Array, log_p: Array) -> Array:
    """Indices (B, L) drawn with probabilities proportional to exp(log_p), log_p (B, L, V).

    Exact for rare events: first decides between the frequent values and those with less than 2^-12 of
    the largest probability, by a uniform that is fine near 0, then inverts the cumulative sum within the
    chosen group alone, whose rounding error is relative to that group's mass. -inf is never drawn.
    A large V is cut into parts, of which one is chosen and looked into: no array of the size of log_p is
    written, and no long cumulative sum taken, which would be most of the cost.
    """

    def count(n):
        return jnp.arange(n).reshape((1,) * (log_p.ndim - 1) + (n,))

    key_group, key_value = split(key)
    size, shape = log_p.shape[-1], (*log_p.shape[:-1], 1)
    width = size if size <= _ONE_SUM else math.isqrt(size - 1) + 1
    log_p = jax.lax.stop_gradient(log_p)
    top = log_p.max(-1, keepdims=True)
    top = jnp.where(jnp.isneginf(top), 0, top)
    masses = [_masses(log_p - top, kind, width) for kind in (False, True)]
    frequent, rare = (mass.sum(-1, keepdims=True) for mass in masses)
    rare_drawn = uniform(key_group, shape, log_p.dtype) * (frequent + rare) < rare
    mass = jnp.where(rare_drawn, masses[1], masses[0])
    target = uniform(key_value, shape, log_p.dtype) * mass.sum(-1, keepdims=True)
    part = _inverted(mass, target)[..., None]
    before = jnp.sum(jnp.where(count(mass.shape[-1]) < part, mass, 0), -1, keepdims=True)
    index = part * width + count(width)
    inside = jnp.take_along_axis(log_p, jnp.minimum(index, size - 1), axis=-1) - top
    chosen = ((inside < _LOG_RARE) == rare_drawn) & (index < size)
    inside = jnp.where(chosen, jnp.exp(inside), 0)
    return part[..., 0] * width + _inverted(inside, target - before)


def _masses(log_p: Array, rare: bool, width: int) -> Array:
    """(..., parts): the sums over parts of `width` values of exp(log_p), of the rare or the others."""
    p = jnp.where((log_p < _LOG_RARE) == rare, jnp.exp(log_p), 0)
    if width == log_p.shape[-1]:
        return p.sum(-1, keepdims=True)
    window = (1,) * (p.ndim - 1) + (width,)
    padding = [(0, 0)] * (p.ndim - 1) + [(0, -p.shape[-1] % width)]
    return jax.lax.reduce_window(p, p.dtype.type(0), jax.lax.add, window, window, padding)


def _inverted(mass: Array, target: Array) -> Array:
    """The first index, int32, at which the cumulative sum of mass (..., N) exceeds target (..., 1)."""
    # A parallel prefix sum need not be monotone in the last bit, hence `mass > 0`.
    hit = (jnp.cumsum(mass, axis=-1) > target) & (mass > 0)
    last_resort = jnp.argmax(mass, axis=-1)  # the target may have been rounded up to the total
    index = jnp.where(jnp.any(hit, axis=-1), jnp.argmax(hit, axis=-1), last_resort)
    return index.astype(jnp.int32)
