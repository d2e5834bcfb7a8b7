"""The autoregressive model, the yardstick: -log p(x0) = sum_i -log p(x0^i | x0^1 .. x0^(i-1)), exactly.

A causal network is called once with [start, x0 without its last token]; its output at position i then
speaks of x0^i, as everywhere in this project. The start token is id V, the last row of the embedding;
where rows hold several texts (`model.segments`), each begins with it.

Multi-token prediction (Gloeckle et al. 2024, arXiv 2404.19737) trains each position on the next tokens
too:

    loss at i = -log p(x0^i | x0^(<i)) + ahead_weight * sum_(0 < k < ahead) -log p_k(x0^(i+k) | x0^(<i))

with a layer of the network's own for each k (`Transformer.ahead`; published is a whole transformer layer
each). Every p_k has its own true distribution as its minimum, so that of p stays where it is: what the
other terms change is what the hidden state learns on the way, and what a small network spends itself on.
The likelihood, and samples, are of p alone.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp

from diffusion.model import RowModel, at_positions, given
from diffusion.numerics import gather_last
from diffusion.process import Kind, Likelihood, Sequential, Traits


@dataclass(frozen=True)
class Autoregressive(Sequential, Likelihood):
    """An objective only, with samplers of its own.

    ahead: of how many tokens, its own and the next ones, each position learns; the model's `ahead` is
    the same. ahead_weight: of each of the next ones in the loss, published 1.
    """

    vocab_size: int | None = None
    ahead: int = 1
    ahead_weight: float = 1.0
    likelihood: ClassVar[Kind] = "exact"

    def __post_init__(self):
        if self.ahead < 1:
            raise ValueError(f"Autoregressive.ahead = {self.ahead} must be at least 1")
        if self.ahead_weight < 0:
            raise ValueError(
                f"Autoregressive.ahead_weight = {self.ahead_weight} must not be negative"
            )

    @property
    def traits(self) -> Traits:
        """Causal attention, and of how many tokens each position speaks."""
        return Traits(attention_block=1, ahead=self.ahead)

    @property
    def token_logits(self) -> bool:
        """Whether each position speaks of one token."""
        return self.ahead == 1

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

        def of_all(out, x0, z, t):
            logits = out.reshape(*x0.shape, -1)
            nats = -gather_last(jax.nn.log_softmax(logits), jnp.maximum(x0, 0))
            nats = jnp.where(x0 < 0, 0, nats)
            return nats[..., 0] + self.ahead_weight * nats[..., 1:].sum(-1)

        t, before = jnp.zeros((x0.shape[0], 1)), self._before(model, x0)
        if self.ahead == 1:
            return at_positions(model, cross_entropy, None, x0, before, t)
        of_next = given(model, ahead=cast(Any, True))
        return at_positions(of_next, of_all, None, self._next(model, x0), before, t)

    def _next(self, model, x0):
        """(B, L, ahead): the tokens from each place of x0 on, -1 where its text has ended."""
        n, segments = self.ahead - 1, model.segments
        segments = jnp.zeros_like(x0) if segments is None else segments
        x0, within = (jnp.pad(a, ((0, 0), (0, n)), constant_values=-1) for a in (x0, segments))
        length = segments.shape[1]
        later = [(x0[:, k : k + length], within[:, k : k + length]) for k in range(self.ahead)]
        return jnp.stack([jnp.where(own == segments, x, -1) for x, own in later], axis=-1)

    def bound_terms(self, key, model: RowModel, x0, u):
        return {"likelihood": -self.log_p(model, x0)}
