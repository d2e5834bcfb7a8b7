"""Block after block of a masked model whose every position sees every other (LLaDA, arXiv 2502.09992).

The whole text stands before the network from the start, masked where it is not known; a sampler of the
process fills in one block of it after the other. With the exact denoiser and one token a call this gives
the data, as every order does; a learned network says something else in this order than in the random one
that it was trained on.

`fresh` saves most of each call (Fast-dLLM, arXiv 2505.22618). Keys and values of all positions are
computed at the start of a block and held while the block is made, but for `fresh` positions from the
start of the block on, which are computed anew in each call (and one before them, from which networks
with shifted outputs speak):

    None           nothing is held: every call is of the whole text
    block_length   the block alone is computed, between what is held on both sides (the dual cache)
    more           also what follows the block; up to the end of the text, the prefix cache

What is held would have changed with each token that the block is given, in networks of more than one
layer: an approximation (docs/measurements.md has its error for a small network).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffusion.process import Process
from diffusion.random import fold_in
from samplers.automaton import Constrained, apart
from samplers.ending import nothing_to_draw
from samplers.parts import in_parts
from samplers.sampler import Compatibility, Sampler, masks
from samplers.unmask import Unmask, mean_time


@dataclass(frozen=True)
class SemiAutoregressive(Sampler):
    """A sampler of the process on each block, which sees the whole text.

    inner: that sampler; its steps are per block. block_length: tokens of a block; the first begins with
    the text, known or not. fresh: how many positions each call computes, from the start of the block on;
    the others are as at the start of the block. None computes all, exactly. stop: tokens that end a row
    (`samplers.ending`).
    """

    inner: Sampler = Unmask()
    block_length: int = 32
    fresh: int | None = None
    stop: tuple[int, ...] = ()

    def __post_init__(self):
        if self.block_length < 1:
            raise ValueError(
                f"SemiAutoregressive.block_length = {self.block_length} must be at least 1"
            )
        if self.fresh is not None and self.fresh < self.block_length:
            raise ValueError(
                f"SemiAutoregressive.fresh = {self.fresh} must be at least block_length = "
                f"{self.block_length}, or None"
            )

    def compatibility(self, process):
        if process.traits.attention_block is not None or not masks(process):
            return Compatibility(
                "unsupported", "needs a masked process on whole texts, with one schedule"
            )
        inner = self.inner.compatibility(process)
        if inner.kind == "unsupported" or self.inner.weighs_known:
            why = "weighs whole texts" if inner.kind != "unsupported" else inner.why
            return Compatibility("unsupported", f"{type(self.inner).__name__} on each block: {why}")
        held = "" if self.fresh is None else ", whose other keys and values are held"
        return Compatibility("approximate", f"goes block by block{held}")

    def check(self, experiment, path):
        if self.fresh is not None and not experiment.model.decodes:
            raise ValueError(
                f"{path}.fresh = {self.fresh}, but model {type(experiment.model).__name__} stores no "
                "keys and values; set it to None"
            )

    @property
    def decodes(self):
        return self.fresh is not None

    @property
    def draws_jointly(self):
        return self.inner.draws_jointly

    def calls(self, process, length):
        size = min(self.block_length, length)
        return -(-length // size) * (self.inner.calls(process, size) + self.decodes)

    def run(self, key, process: Process, model, shape, known=None, trace=False):
        rows, length = shape
        size = min(self.block_length, length)
        beyond = -length % size  # positions of the last block that are none of the text
        given = jnp.full(shape, -1) if known is None else known
        text = process.space.clamp(jnp.full(shape, process.num_tokens), given)
        text, given = (jnp.pad(x, ((0, 0), (0, beyond))) for x in (text, given))
        network, pattern = apart(model)

        def block(number, ended, carry):
            text, state = carry
            first = number * size
            model = self._of_block(process, network, text, first, length)
            if pattern is not None:
                model = Constrained(model, pattern, state, first)
            known = jax.lax.dynamic_slice_in_dim(given, first, size, axis=1)
            known = nothing_to_draw(known, ended, self.stop)
            key_block = fold_in(key, number)
            x0, calls, _ = self.inner.run(key_block, process, model, (rows, size), known)
            if pattern is not None:
                state = pattern.after(x0, state, first)
            text = jax.lax.dynamic_update_slice_in_dim(text, x0, first, axis=1)
            return x0, calls + self.decodes, (text, state)

        start = jnp.argmin(given >= 0, axis=1).min() // size  # blocks that are known in all rows
        carry = text, jnp.zeros(rows, jnp.int32)
        return in_parts(block, shape, size, carry, self.stop, known, start)

    def _of_block(self, process, network, text, first, length):
        """model(z, t) of the block from `first` on, the rest of the text (B, L) being as it is."""
        size, window = min(self.block_length, length), length
        if self.fresh is not None:
            window = min(self.fresh + 1, length)
            whole = text[:, :length]
            cache, t = network.cache(*whole.shape), mean_time(process, whole)
            cache = network.decode(whole, t, cache, 0, None, True)[1]
        start = jnp.clip(first - 1, 0, length - window)

        def model(z, t):
            now = jax.lax.dynamic_update_slice_in_dim(text, z, first, axis=1)[:, :length]
            of_text = mean_time(process, now)
            if self.fresh is None:
                out = network(now, of_text)
            else:
                part = jax.lax.dynamic_slice_in_dim(now, start, window, axis=1)
                out = network.decode(part, of_text, cache, start, None, True)[0]
            out = jnp.pad(out, ((0, 0), (0, -length % size), (0, 0)))
            out = jax.lax.dynamic_slice_in_dim(out, first - start, size, axis=1)
            if process.posterior_head:
                return out
            return process.invert_predict(process.predict(out, z, of_text), z, t)

        return model
