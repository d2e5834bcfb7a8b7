"""The autoregressive model, the yardstick: -log p(x0) = sum_i -log p(x0^i | x0^1 .. x0^(i-1)), exactly.

A causal network is called once with [start, x0 without its last token]; its output at position i then
speaks of x0^i, as everywhere in this project. The start token is id V, the last row of the embedding;
where rows hold several texts (`model.segments`), each begins with it.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from diffusion.model import RowModel, at_positions
from diffusion.numerics import gather_last
from diffusion.process import Kind, Likelihood, Sequential, Traits


@dataclass(frozen=True)
class Autoregressive(Sequential, Likelihood):
    """An objective only, with samplers of its own."""

    vocab_size: int | None = None
    likelihood: ClassVar[Kind] = "exact"
    traits: ClassVar[Traits] = Traits(attention_block=1)
    token_logits: ClassVar[bool] = True

    @property
    def start(self) -> int:
        return self.num_tokens

    def log_p(self, model: RowModel, x0):
        return gather_last(jax.nn.log_softmax(self._out(model, x0)), x0)

    def likeliest(self, model: RowModel, x0):
        return jnp.argmax(self._out(model, x0), axis=-1)

    def _out(self, model, x0):
        return model(self._before(model, x0), jnp.zeros((x0.shape[0], 1)))

    def _before(self, model, x0):
        """(B, L): the token that stands before each of x0."""
        before = jnp.pad(x0[:, :-1], ((0, 0), (1, 0)), constant_values=self.start)
        segments = model.segments
        if segments is not None:
            begins = segments != jnp.pad(segments[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
            before = jnp.where(begins, self.start, before)
        return before

    def loss(self, key, model: RowModel, x0, u):
        def cross_entropy(out, x0, z, t):
            return -gather_last(jax.nn.log_softmax(out), x0)

        t = jnp.zeros((x0.shape[0], 1))
        return at_positions(model, cross_entropy, None, x0, self._before(model, x0), t)

    def bound_terms(self, key, model: RowModel, x0, u):
        return {"likelihood": -self.log_p(model, x0)}
