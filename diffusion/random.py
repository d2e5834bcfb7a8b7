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
from jax.typing import DTypeLike

_RARE = 2.0**-12
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


def fold_in(key: Array, data: int | Array) -> Array:
    """The key, or each row's key, with an integer folded in."""
    key = _typed(key)
    if key.ndim == 0:
        return jax.random.fold_in(key, data)
    return jax.vmap(lambda k: jax.random.fold_in(k, data))(key)


def bits(key: Array, shape: tuple[int, ...]) -> Array:
    """uint32 random bits of `shape` (B, ...), from one key or a key per row."""
    return _draw(key, lambda k, shape: jax.random.bits(k, shape, "uint32"), shape)


def normal(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Standard normal draws of `shape` (B, ...)."""
    return _draw(key, lambda k, shape: jax.random.normal(k, shape, dtype), shape)


def signs(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """-1 or 1, each with probability a half, of `shape` (B, ...)."""
    return _draw(key, lambda k, shape: jax.random.rademacher(k, shape, dtype), shape)


def log_exponential(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """log of exponential draws of `shape` (B, ...), fine for small ones; none exceeds 16.6."""
    return jnp.log(-jnp.log1p(-uniform(key, shape, dtype)))


def log_gamma(key: Array, conc: Array) -> Array:
    """log of gamma draws with the concentrations `conc` (B, ...)."""
    key = _typed(key)
    if key.ndim == 0:
        return jax.random.loggamma(key, conc)
    return jax.vmap(jax.random.loggamma)(key, conc)


def uniform(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Draws of `shape` (B, ...) from the open interval (0, 1), with full relative precision near 0.

    P(draw < p) = p to a relative error of 2^-23 for p down to 2^-40, where the usual multiples of
    2^-23 would round p. Near 1 the grid is that of the dtype.
    """
    high, low = jax.vmap(lambda k: bits(k, shape).astype(dtype))(split(key))
    return jnp.clip((high + (low + 0.5) * 2.0**-32) * 2.0**-32, 2.0**-65, _HIGHEST)


def poisson(key: Array, mean: Array) -> Array:
    """int32 draws of Poisson distributions with the means `mean` (B, ...)."""
    key = _typed(key)
    if key.ndim == 0:
        return jax.random.poisson(key, mean, dtype=jnp.int32)
    return jax.vmap(lambda k, m: jax.random.poisson(k, m, dtype=jnp.int32))(key, mean)


def categorical(key: Array, log_p: Array) -> Array:
    """Indices (B, L) drawn with probabilities proportional to exp(log_p), log_p (B, L, V).

    Exact for rare events (`_inverted`); -inf is never drawn. A large V is cut into parts: one is drawn
    by its mass and a value within it, both exactly, with one sum over all values. A cumulative sum over
    them, or any array of their size written, would be most of the cost.
    """
    return categorical_by(uniforms(key, log_p.shape, log_p.dtype), log_p)


def uniforms(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Uniform draws (B, L, 2 or 4), by which `categorical_by` draws from log_p of `shape` (B, L, V)."""
    keys = split(key)
    if shape[-1] > _ONE_SUM:
        keys = jax.vmap(split)(keys).reshape(4, *keys.shape[1:])
    return jnp.moveaxis(jax.vmap(lambda k: uniform(k, shape[:-1], dtype))(keys), 0, -1)


def categorical_by(draws: Array, log_p: Array) -> Array:
    """What `categorical` draws, from `uniforms`: each position by its own, wherever it stands."""
    size = log_p.shape[-1]
    if size <= _ONE_SUM:
        return _inverted(draws, log_p)
    width = math.isqrt(size - 1) + 1
    log_p = jax.lax.stop_gradient(log_p)
    top = log_p.max(-1, keepdims=True)
    p = jnp.exp(log_p - jnp.where(jnp.isneginf(top), 0, top))
    window = (1,) * (p.ndim - 1) + (width,)
    padding = [(0, 0)] * (p.ndim - 1) + [(0, -size % width)]
    mass = jax.lax.reduce_window(p, p.dtype.type(0), jax.lax.add, window, window, padding)
    first = _inverted(draws[..., :2], jnp.log(mass)) * width
    index = first[..., None] + jnp.arange(width).reshape((1,) * first.ndim + (width,))
    inside = jnp.take_along_axis(log_p, jnp.minimum(index, size - 1), axis=-1)
    return first + _inverted(draws[..., 2:], jnp.where(index < size, inside, -jnp.inf))


def _inverted(draws: Array, log_p: Array) -> Array:
    """As `categorical`, by the cumulative sum of all values.

    Exact for rare events: first decides between the frequent values and those with p < 2^-12, by a
    uniform that is fine near 0, then inverts the cumulative sum within the chosen group alone, whose
    rounding error is relative to that group's mass.
    """
    of_group, of_value = draws[..., :1], draws[..., 1:]
    p = jax.nn.softmax(log_p, axis=-1)
    rare = p < _RARE
    rare_mass = jnp.sum(jnp.where(rare, p, 0), axis=-1, keepdims=True)
    group = jnp.where(rare == (of_group < rare_mass), p, 0)
    total = jnp.cumsum(group, axis=-1)
    # A parallel prefix sum need not be monotone in the last bit, hence `group > 0`.
    hit = (total > of_value * total[..., -1:]) & (group > 0)
    last_resort = jnp.argmax(group, axis=-1)  # the product above may round up to the total
    index = jnp.where(jnp.any(hit, axis=-1), jnp.argmax(hit, axis=-1), last_resort)
    return index.astype(jnp.int32)
