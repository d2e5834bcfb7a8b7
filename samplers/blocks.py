"""Samples of block diffusion: block after block, each by a sampler of the base process.

The network sees earlier blocks through their stored keys and values, which are computed once, by one
more call on the finished block. One compiled program: a loop over the blocks, the grid of times inside.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from diffusion.block import BlockDiffusion
from diffusion.random import fold_in
from samplers.ancestral import Ancestral
from samplers.automaton import Constrained, apart
from samplers.ending import nothing_to_draw
from samplers.parts import in_parts
from samplers.sampler import Compatibility, Sampler


@dataclass(frozen=True)
class BlockByBlock(Sampler):
    """A sampler of the base process on each block.

    inner: that sampler; its steps are per block. span: how many positions up to the end of a block are
    seen, None for all; see `LeftToRight`. stop: tokens that end a row (`samplers.ending`).
    """

    inner: Sampler = Ancestral(steps=16)
    span: int | None = None
    stop: tuple[int, ...] = ()
    requires: ClassVar[type] = BlockDiffusion
    lacking: ClassVar[str] = "the process does not go block by block"

    def __post_init__(self):
        if self.span is not None and self.span < 1:
            raise ValueError(f"BlockByBlock.span = {self.span} must be at least 1, or None")

    def compatibility(self, process):
        if not isinstance(process, BlockDiffusion):
            return Compatibility("unsupported", self.lacking)
        inner = self.inner.compatibility(process.base)
        return inner._replace(why=f"{type(self.inner).__name__} on each block: {inner.why}")

    def check(self, experiment, path):
        size = experiment.process.traits.attention_block
        if self.span is not None and self.span < size:
            raise ValueError(f"{path}.span = {self.span} is shorter than a block of {size} tokens")

    @property
    def decodes(self):
        return True

    @property
    def draws_jointly(self):
        return self.inner.draws_jointly

    def calls(self, process: BlockDiffusion, length: int) -> int:
        size = process.block_length
        return -(-length // size) * (self.inner.calls(process.base, size) + 1)

    def run(self, key, process: BlockDiffusion, model, shape, known=None, trace=False):
        rows, length = shape
        size = process.block_length
        room = -(-length // size) * size  # the last block is cut
        unknown = jnp.full(shape, -1) if known is None else known
        unknown = jnp.pad(unknown, ((0, 0), (0, room - length)), constant_values=-1)
        clean = jnp.zeros((rows, 1))

        network, pattern = apart(model)

        def block(number, ended, carry):
            cache, state = carry
            first = number * size

            def of_block(z, t):
                return network.decode(z, t, cache, first, self.span)[0]

            model = of_block
            if pattern is not None:
                model = Constrained(of_block, pattern, state, first)
            known = jax.lax.dynamic_slice_in_dim(unknown, first, size, axis=1)
            known = nothing_to_draw(known, ended, self.stop)
            key_block = fold_in(key, number)
            x0, calls, _ = self.inner.run(key_block, process.base, model, (rows, size), known)
            if pattern is not None:
                state = pattern.after(x0, state, first)
            cache = network.decode(x0, clean, cache, first, self.span)[1]
            return x0, calls + 1, (cache, state)

        start = network.cache(rows, room), jnp.zeros(rows, jnp.int32)
        return in_parts(block, shape, size, start, self.stop, known)
