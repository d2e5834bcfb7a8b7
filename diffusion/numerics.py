"""Elementwise functions that keep their digits where the textbook form loses them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def in_float64(function: Callable[..., Array], *arguments: np.ndarray) -> np.ndarray:
    """function(*arguments) of arrays in double precision, at once, also while a program is traced: for
    tables of numbers that float32 does not tell apart. On the host, for not every device has float64."""
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # where JAX_PLATFORMS leaves it out
        host = None
    with jax.ensure_compile_time_eval(), jax.enable_x64(True), jax.default_device(host):
        return np.asarray(function(*(jnp.asarray(a, jnp.float64) for a in arguments)))


def log1mexp(x: Array) -> Array:
    """log(1 - exp(x)) for x <= 0; -inf at 0."""
    return jnp.where(x > -0.7, jnp.log(-jnp.expm1(x)), jnp.log1p(-jnp.exp(x)))


def log_quotient(a: Array, b: Array) -> Array:
    """log(a / b) for 0 <= a <= b, to full relative precision where they are close; -inf at a = 0."""
    close = a > b / 2  # there a - b is exact
    apart = log_divide(jnp.log(a), jnp.log(b))
    return jnp.where(close, jnp.log1p(jnp.where(close, (a - b) / b, 0)), apart)


def bregman(d: Array) -> Array:
    """exp(d) - 1 - d >= 0, to full relative precision near 0; inf where d = -inf.

    q * bregman(log p - log q) is p - q - q log(p / q), the generalised divergence of two rates: a sum
    of terms that are none of them negative, where the three parts apart cancel.
    """
    small = jnp.abs(d) < 0.05
    x = jnp.where(small, d, 0)
    series = x * x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6))))
    return jnp.where(small, series, jnp.expm1(jnp.where(small, 1.0, d)) - d)


def log_divide(a: Array, b: Array) -> Array:
    """a - b for logarithms, -inf wherever a is: log of 0 / anything, 0 / 0 included."""
    zero = jnp.isneginf(a)
    return jnp.where(zero, -jnp.inf, a - jnp.where(zero, 0, b))


def logaddexp(a: Array, b: Array) -> Array:
    """log(exp(a) + exp(b)), whose gradient is a number (0) also where both are -inf."""
    none = jnp.isneginf(a) & jnp.isneginf(b)
    return jnp.where(none, -jnp.inf, jnp.logaddexp(jnp.where(none, 0, a), b))


def log_softmax(log_p: Array) -> Array:
    """log_p - logsumexp(log_p) over the last axis."""
    return jax.nn.log_softmax(log_p, axis=-1)


def tilt(by: Array, strength: float | Array, possible: Array | bool = True) -> Array:
    """strength * by up to a constant along the last axis, such that the largest of the `possible` is 0,
    and -inf where impossible.

    A number for every strength, however large, infinite and negative ones too: the product itself
    overflows. The largest is told by its index, since a compiler may round by - max(by) to other than 0.
    """
    by = jnp.where(possible, jnp.sign(strength) * by, -jnp.inf)
    first = jnp.argmax(by, axis=-1, keepdims=True)
    behind = jnp.minimum(by - jnp.take_along_axis(by, first, axis=-1), 0)
    is_first = jax.lax.broadcasted_iota(first.dtype, by.shape, by.ndim - 1) == first
    product = jnp.where(is_first | (behind == 0), 0, jnp.abs(strength) * behind)
    return jnp.where(possible, product, -jnp.inf)


def divergence(log_q: Array, log_p: Array) -> Array:
    """KL(q || p) over the last axis, in nats, of normalised log_q and log_p; no term is negative."""
    absent = jnp.isneginf(log_q)
    d = jnp.where(absent, 0, log_p - jnp.where(absent, 0, log_q))
    return jnp.sum(jnp.where(absent, jnp.exp(log_p), jnp.exp(log_q) * bregman(d)), axis=-1)


def log_one_hot(index: Array, size: int) -> Array:
    """(..., size): 0 at the index, -inf elsewhere: the logarithm of a one-hot vector."""
    return jnp.where(jax.nn.one_hot(index, size, dtype=bool), 0.0, -jnp.inf)


def gather_last(values: Array, index: Array) -> Array:
    """values[..., index]: (B, L) from values (B, L, N), or (B, 1, N) for all positions."""
    values = jnp.broadcast_to(values, (*index.shape, values.shape[-1]))
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]
