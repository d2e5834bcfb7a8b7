"""Samples of an autoregressive model, one token after another, exactly by its law.

With the cache a step computes one position, and attends to the stored keys and values of those before;
without it every step computes all positions. Both give the same tokens up to rounding.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from diffusion.random import categorical, fold_in


@dataclass(frozen=True)
class LeftToRight:
    """As many calls of the network as tokens. temperature divides the logits: 1 is the model's law.

    span: how many positions up to the last an attention sees, None for all. Beyond the length that the
    network was trained on, its own length is a span that keeps distances within what it knows.
    """

    temperature: float = 1.0
    cached: bool = True
    span: int | None = None
    needs: ClassVar[tuple[str, ...]] = ("log_p", "start")

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"LeftToRight.temperature = {self.temperature} must be positive")
        if self.span is not None and (self.span < 1 or not self.cached):
            raise ValueError(f"LeftToRight.span = {self.span} must be at least 1, with cached=True")

    def calls(self, process, length):
        return length

    def sample(self, key, process, model, shape, given=None):
        rows, length = shape
        t = jnp.zeros((rows, 1))
        first = jnp.full((rows, 1), process.start)

        def choose(out, number):
            x = categorical(fold_in(key, number), out / self.temperature)
            if given is None:
                return x
            known = jax.lax.dynamic_slice_in_dim(given, number, 1, axis=1)
            return jnp.where(known >= 0, known, x)

        def cached(carry, number):
            previous, cache = carry
            out, cache = model.decode(previous, t, cache, number, self.span)
            x = choose(out, number)
            return (x, cache), x

        def uncached(inputs, number):
            out = jax.lax.dynamic_slice_in_dim(model(inputs[:, :-1], t), number, 1, axis=1)
            x = choose(out, number)
            return jax.lax.dynamic_update_slice_in_dim(inputs, x, number + 1, axis=1), x

        if self.cached:
            body, carry = cached, (first, model.cache(rows, length))
        else:
            body, carry = uncached, jnp.pad(first, ((0, 0), (0, length)))
        _, tokens = jax.lax.scan(body, carry, jnp.arange(length))
        return tokens[..., 0].T
