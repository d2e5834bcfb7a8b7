"""Goldfish loss (Hans et al. 2024, arXiv 2406.10209): some places are never learned, so that no text is
memorised as a whole.

A hash of the `context` tokens before a position says whether it is left out: 1 of `every` positions is,
in every epoch and every copy of the text the same ones. The others count every / (every - 1) times, so
that the mean loss stays what it was. Of rows that hold several texts the tokens before are those of the
row, of another text too.

From left to right the minimum stays where it is at every place that is learned from, since whether it is
depends on what stands before the token alone; elsewhere nothing is asked, and the network generalises.
Where the tokens before are noisy themselves the model learns p(x0 | z_t) among places that are not left
out, and so is biased in principle, by as much as the hash, which looks random, tells of a token.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from experiments.token_weights.token_weight import TokenWeight


@dataclass(frozen=True)
class Goldfish(TokenWeight):
    """Every so many places left out.

    every: 1 of so many is left out, published 4. context: tokens before a place that decide over it,
    published 13; of the first ones of a row, those that there are.
    """

    every: int = 4
    context: int = 13

    def __post_init__(self):
        if self.every < 2:
            raise ValueError(f"Goldfish.every = {self.every} must be at least 2")
        if self.context < 1:
            raise ValueError(f"Goldfish.context = {self.context} must be at least 1")

    def __call__(self, x0, nats, reference=None):
        left_out = hashed_before(x0, self.context) % self.every == 0
        return jnp.where(left_out, 0, self.every / (self.every - 1)).astype(nats.dtype)


def hashed_before(x0: Array, context: int) -> Array:
    """uint32 (B, L): a hash of the `context` tokens before each of x0 (B, L), in their order."""
    value = jnp.full(x0.shape, 2166136261, jnp.uint32)
    for distance in range(min(context, x0.shape[1] - 1), 0, -1):
        token = jnp.pad(x0[:, :-distance] + 1, ((0, 0), (distance, 0)))  # 0 before a row begins
        value = _mixed(value ^ token.astype(jnp.uint32))
    return value


def _mixed(value):
    """The finaliser of MurmurHash3 (Appleby 2011), after a step that tells 0 from its neighbours."""
    value = value * jnp.uint32(16777619) + jnp.uint32(0x9E3779B9)
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2AE35)
    return value ^ (value >> 16)
