"""Text of any length by a model of one length: window after window, each begun with the end of the last.

The first window is sampled whole. Then the window moves on by `stride`, what stands in it already is
known, and `inner` fills in the rest: for processes that take known tokens, which all but those from left
to right do. Exact where `inner` is and the text is a chain of windows: no token depends on what has left
the window when it is drawn. One compiled program, a scan over the windows.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffusion.random import fold_in
from samplers.ancestral import Ancestral
from samplers.sampler import Compatibility, Sampled, Sampler


@dataclass(frozen=True)
class SlidingWindow(Sampler):
    """Windows of the text, one after another.

    inner: the sampler of a window. window: tokens the network sees, its training length as a rule.
    stride: new tokens a window, at most `window`.
    """

    inner: Sampler = Ancestral()
    window: int = 128
    stride: int = 64

    def __post_init__(self):
        if not 1 <= self.stride <= self.window:
            raise ValueError(
                f"SlidingWindow.stride = {self.stride} must be from 1 to window = {self.window}"
            )

    def compatibility(self, process):
        if process.traits.attention_block is not None:
            return Compatibility("unsupported", "the process already goes from left to right")
        inner = self.inner.compatibility(process)
        if inner.kind == "unsupported":
            return inner
        return Compatibility("approximate", "a token does not depend on what has left the window")

    def calls(self, process, length):
        return self._count(length) * self.inner.calls(process, min(self.window, length))

    def seen_together(self, length):
        return min(self.window, length)

    def _count(self, length):
        return 1 + max(0, -(-(length - self.window) // self.stride))

    def run(self, key, process, model, shape, known=None, trace=False):
        rows, length = shape
        size = min(self.window, length)
        count = self._count(length)
        text = jnp.full(shape, -1) if known is None else known
        padding = size + (count - 1) * self.stride - length
        text = jnp.pad(text, ((0, 0), (0, padding)), constant_values=-1)

        def body(text, number):
            first = number * self.stride
            known = jax.lax.dynamic_slice_in_dim(text, first, size, axis=1)
            x0, calls, _ = self.inner.run(fold_in(key, number), process, model, (rows, size), known)
            return jax.lax.dynamic_update_slice_in_dim(text, x0, first, axis=1), calls

        text, calls = jax.lax.scan(body, text, jnp.arange(count))
        return Sampled(text[:, :length], calls.sum(0))
