"""Positions in the order of a score, such that rounding does not decide.

Where nothing is revealed yet, a network with rotary positions says the same of all positions, up to
rounding of about 1e-6, which depends on how many rows a batch has. Scores that differ by less than `TIE`
are therefore equal, and so is a chain of such scores; equal ones are in random order, by a number for
each position that the key of its row decides. A row then depends on the other rows only if two scores
happen to differ by TIE to within rounding, where neither or both of them may be first.
"""

import jax
import jax.numpy as jnp
from jax import Array

TIE = 1e-4  # of scores about 1: nats, or differences of probabilities; larger ones by their size


def in_order(score: Array, chance: Array) -> Array:
    """(B, L): positions by falling score (B, L); of those of equal score the largest chance (B, L)
    first."""
    number = jax.lax.broadcasted_iota(jnp.int32, score.shape, 1)
    rising, first = jax.lax.sort((-score, number), num_keys=1)
    low, high = rising[:, :-1], rising[:, 1:]
    size = jnp.maximum(jnp.minimum(jnp.abs(low), jnp.abs(high)), 1)
    apart = (
        high - low > TIE * size
    )  # of infinite ones too: inf - inf is not a number, hence not apart
    group = jnp.pad(jnp.cumsum(apart, axis=1), ((0, 0), (1, 0)))
    chance = jnp.take_along_axis(chance, first, axis=1)
    return jax.lax.sort((group, -chance, first), num_keys=2)[2]


def places(order: Array) -> Array:
    """(B, L): the place of each position in an order of them, from 0 on."""
    return jnp.argsort(order, axis=1)
