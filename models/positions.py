"""A function of each position's activations, computed only where it is wanted.

Positions that are wanted are brought to the front and taken a chunk at a time; a chunk without any is
skipped when the program runs. Nothing of a chunk is kept for the backward pass, which computes it again:
of logits (B, L, V) only one chunk is ever in memory.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, cast

import jax
import jax.numpy as jnp
from jax import Array

LEAST_CHUNK, MOST_CHUNKS = 256, 16


def apply_where(
    function: Callable[..., Array], x: Array, where: Array, values: tuple[Array, ...]
) -> Array:
    """function(x, *values), (B, L), where `where` (B, L) is true, and 0 elsewhere: of x (B, L, D) and
    values (B, L). function takes (B', N, D) and (B', N) of other positions, each by itself. Gradients
    flow to x and to what the function has closed over, none to the values."""
    shards, shape = _shards(where), where.shape
    count = where.size // shards
    chunk = min(count, max(LEAST_CHUNK, -(-count // MOST_CHUNKS)))

    def of_shards(a):
        return a.reshape(shards, count, *a.shape[2:])

    order = jnp.argsort(~of_shards(where), axis=1, stable=True)
    inverse = jnp.argsort(order, axis=1)
    x = _chunks(_permuted(of_shards(x), order, inverse), chunk)
    wanted = _chunks(_take(of_shards(where), order), chunk, "constant")
    given = [_chunks(_take(of_shards(a), order), chunk) for a in values]
    one = [jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for a in (x, *given)]
    converted, closed = jax.closure_convert(function, *one)
    out = cast(Array, _apply(converted, tuple(closed), x, wanted, tuple(given)))
    out = jnp.moveaxis(out, 0, 1).reshape(shards, -1)[:, :count]
    return _permuted(out, inverse, order).reshape(shape)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apply(function, closed, x, wanted, values):
    """(C, S, N) of chunks: x (C, S, N, D), wanted and each of the values (C, S, N)."""

    def one(_, chunk):
        x, wanted, values = chunk
        return None, jax.lax.cond(
            wanted.any(),
            lambda: jnp.where(wanted, function(x, *values, *closed), 0),
            lambda: jnp.zeros(wanted.shape, jax.eval_shape(function, x, *values, *closed).dtype),
        )

    return jax.lax.scan(one, None, (x, wanted, values))[1]


def _forward(function, closed, x, wanted, values):
    return _apply(function, closed, x, wanted, values), (closed, x, wanted, values)


def _backward(function, kept, gradient):
    closed, x, wanted, values = kept

    def one(total, chunk):
        x, wanted, values, gradient = chunk

        def add(total):
            _, pull = jax.vjp(lambda closed, x: function(x, *values, *closed), closed, x)
            of_closed, of_x = pull(jnp.where(wanted, gradient, 0))
            return jax.tree.map(jnp.add, total, of_closed), of_x

        return jax.lax.cond(wanted.any(), add, lambda total: (total, jnp.zeros_like(x)), total)

    zero = jax.tree.map(jnp.zeros_like, closed)
    of_closed, of_x = jax.lax.scan(one, zero, (x, wanted, values, gradient))
    return of_closed, of_x, None, None


_apply.defvjp(_forward, _backward)


@jax.custom_vjp
def _permuted(x, order, inverse):
    """x (S, N, ...) in another order of N: its gradient is taken, not added up by places."""
    return _take(x, order)


def _take(x, order):
    return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)


_permuted.defvjp(
    lambda x, order, inverse: (_take(x, order), inverse),
    lambda inverse, gradient: (_take(gradient, inverse), None, None),
)


def _chunks(x: Array, size: int, fill: Literal["edge", "constant"] = "edge") -> Array:
    """(C, S, size, ...) from x (S, N, ...), the last filled up with the last position again, of which
    losses are finite as t is not 0; or with zeros."""
    short = -x.shape[1] % size
    x = jnp.pad(x, [(0, 0), (0, short)] + [(0, 0)] * (x.ndim - 2), mode=fill)
    return jnp.moveaxis(x.reshape(len(x), -1, size, *x.shape[2:]), 1, 0)


def _shards(where: Array) -> int:
    """Over how many parts of a mesh the rows are spread: each sorts its own positions."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return 1
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    return 1 if len(where) % parts else parts
