"""Samples of an autoregressive model, one token after another, exactly by its distribution.

With the cache a step computes one position, and attends to the stored keys and values of those before;
without it every step computes all positions. Both give the same tokens up to rounding.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from diffusion.numerics import log_softmax
from diffusion.process import Sequential
from diffusion.random import categorical, fold_in
from samplers.automaton import apart, with_last_resort
from samplers.logits_processor import LogitsProcessor
from samplers.parts import in_parts
from samplers.sampler import Compatibility, Sampler


@dataclass(frozen=True)
class LeftToRight(Sampler):
    """As many calls of the network as tokens.

    logits_processor: changes the distribution that each token is drawn from. cached: whether keys and
    values are stored (above). span: how many positions up to the last an attention sees, None for all.
    Beyond the length that the network was trained on, its own length is a span that keeps distances
    within what it knows. stop: tokens that end a row (`samplers.ending`).
    """

    logits_processor: LogitsProcessor = LogitsProcessor()
    cached: bool = True
    span: int | None = None
    stop: tuple[int, ...] = ()
    requires: ClassVar[type] = Sequential
    lacking: ClassVar[str] = "the process does not go from left to right"

    def __post_init__(self):
        if self.span is not None and (self.span < 1 or not self.cached):
            raise ValueError(f"LeftToRight.span = {self.span} must be at least 1, with cached=True")

    def compatibility(self, process):
        return self.unsupported(process) or Compatibility(
            "exact", "each token from its own distribution"
        )

    @property
    def decodes(self):
        return self.cached

    @property
    def draws_jointly(self):
        return True

    def calls(self, process, length):
        return length

    def run(self, key, process: Sequential, model, shape, known=None, trace=False):
        rows, length = shape
        t = jnp.zeros((rows, 1))
        first = jnp.full((rows, 1), process.start)

        network, pattern = apart(model)

        def choose(out, number, counts, state):
            before = log_softmax(out)
            log_p = self.logits_processor(before, counts=counts)
            if pattern is None:
                x = categorical(fold_in(key, number), log_p)
            else:
                log_p = with_last_resort(log_p, before)
                x, state = pattern.draw(fold_in(key, number), log_p, state, number)
            if known is not None:
                token = jax.lax.dynamic_slice_in_dim(known, number, 1, axis=1)
                x = jnp.where(token >= 0, token, x)
            return x, counts + jax.nn.one_hot(x, counts.shape[-1]), state

        def cached(number, ended, carry):
            previous, cache, *drawn = carry
            out, cache = network.decode(previous, t, cache, number, self.span)
            x, *drawn = choose(out, number, *drawn)
            return x, 1, (x, cache, *drawn)

        def uncached(number, ended, carry):
            inputs, *drawn = carry
            out = jax.lax.dynamic_slice_in_dim(network(inputs[:, :-1], t), number, 1, axis=1)
            x, *drawn = choose(out, number, *drawn)
            inputs = jax.lax.dynamic_update_slice_in_dim(inputs, x, number + 1, axis=1)
            return x, 1, (inputs, *drawn)

        drawn = jnp.zeros((rows, 1, process.num_tokens)), jnp.zeros(rows, jnp.int32)
        if self.cached:
            token, carry = cached, (first, network.cache(rows, length), *drawn)
        else:
            token, carry = uncached, (jnp.pad(first, ((0, 0), (0, length))), *drawn)
        return in_parts(token, shape, 1, carry, self.stop, known)
