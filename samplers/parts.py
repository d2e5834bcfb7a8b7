"""Rows made part after part, from left to right, until each has ended: one compiled loop."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from samplers.ending import ends, last_known, padded
from samplers.sampler import Sampled

Part = Callable[[Array, Array, Any], tuple[Array, Array | int, Any]]
"""part(number, ended (B,), carry) -> (x0 (B, n), calls of the network for each row, carry)."""


def in_parts(
    part: Part,
    shape: tuple[int, int],
    size: int,
    carry: Any,
    stop: Sequence[int],
    known: Array | None,
    first: int | Array = 0,
) -> Sampled:
    """Samples of `shape` (B, L), in parts of `size` positions, the last of which is cut; no part is made
    once every row has ended by a token of `stop`. carry: what the first part is given. first: the number
    of the first part that is made; those before it are known (B, L) in all rows."""
    rows, length = shape
    count, last = -(-length // size), last_known(known, rows)
    text = jnp.zeros(shape, jnp.int32) if known is None else known
    text = jnp.pad(text, ((0, 0), (0, count * size - length)))

    def body(state):
        number, ended, text, calls, carry = state
        x0, more, carry = part(number, ended, carry)
        text = jax.lax.dynamic_update_slice_in_dim(text, x0, number * size, axis=1)
        calls = calls + jnp.where(ended, 0, more)
        if stop:
            ended = ended | ends(x0, stop, last, number * size).any(1)
        return number + 1, ended, text, calls, carry

    def unfinished(state):
        return (state[0] < count) & ~state[1].all()

    none, start = jnp.zeros(rows, bool), jnp.asarray(first, jnp.int32)
    begin = start, none, text, jnp.zeros(rows, jnp.int32), carry
    _, _, text, calls, _ = jax.lax.while_loop(unfinished, body, begin)
    return Sampled(padded(text[:, :length], stop, known), calls)
