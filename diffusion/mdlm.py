"""Masked diffusion language model, MDLM (arXiv 2406.07524) and MD4 (arXiv 2406.04329).

Forward: a token is kept with probability alpha(t), else replaced by the mask m, independently per
position. Because a revealed token is certain, only masked positions cost anything:

    -log p(x0) <= E_t sum_i [z_t^i = m] * w(t) * -log p(x0^i | z_t) + boundary terms
    w(t) = -alpha'(t) / (1 - alpha(t))                        in continuous time
    w(t) = T (alpha(s) - alpha(t)) / (1 - alpha(t)), s = t - 1/T   on a grid of T steps

The exact reverse step reveals a masked position with probability (alpha(s) - alpha(t)) / (1 - alpha(t)),
as a draw of p(x0 | z_t), and never changes a revealed one ("SUBS": zero mask probability, carry-over).

Boundary terms. With exact ends there are none. Where alpha(0) < 1, some tokens are still masked at
t = 0 and the network pays for them: reconstruction, -log p(x0 | z_0). Where alpha(1) > 0, some tokens
survive at t = 1; the generative model then starts from that same share of uniformly drawn tokens, and
the prior term is KL(q(z_1 | x0) || p(z_1)) = alpha(1) log V per position. The official code drops both.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.kernels import Absorbing
from diffusion.markov import ContinuousMarkovProcess
from diffusion.model import JointModel, at_positions
from diffusion.numerics import gather_last, log_one_hot
from diffusion.process import Kind, Traits, check_num_steps
from diffusion.random import categorical, categorical_by, uniforms
from diffusion.schedules import Linear, Schedule, masked_weight, masked_weights


@dataclass(frozen=True)
class MDLM(ContinuousMarkovProcess):
    """The absorbing process with the SUBS parameterisation.

    schedule: alpha(t). num_steps: T of the discrete-time bound, at most 2^22; None is continuous time.
    """

    vocab_size: int | None = None
    schedule: Schedule = Linear()
    num_steps: int | None = None  # T of the discrete-time bound; None is continuous time
    head: ClassVar[str] = "posterior"  # of masked positions the leave-one-out distribution too
    kernel: ClassVar[Absorbing] = Absorbing()
    likelihood: ClassVar[Kind] = "bound"

    def __post_init__(self):
        self.check_noise()
        if self.vocab_size is not None and self.vocab_size < 1:
            raise ValueError(f"MDLM.vocab_size = {self.vocab_size} must be at least 1")
        check_num_steps(self, self.num_steps)

    @property
    def traits(self) -> Traits:
        """`Objective.traits`: in continuous time the bound is the mean likelihood over orders."""
        return Traits(any_order=self.num_steps is None)

    @property
    def mask(self) -> int:
        """The number of the mask among the states, V."""
        return self.num_tokens

    def in_steps(self, num_steps: int | None) -> Self:
        return replace(self, num_steps=num_steps)

    def time(self, u: Array) -> Array:
        if self.num_steps is None:
            return u
        return jnp.ceil(u * self.num_steps) / self.num_steps

    def predict(self, out: Array, z: Array, t: Array) -> Array:
        carried = log_one_hot(z, self.num_tokens)
        return jnp.where((z == self.mask)[..., None], jax.nn.log_softmax(out), carried)

    def draw(self, key, model, z, t, logits_processor=None):
        if logits_processor is not None or isinstance(model, JointModel):
            return super().draw(key, model, z, t, logits_processor)
        # A draw needs no normalised distribution, and a revealed token no draw.
        return jnp.where(z == self.mask, categorical(key, model(z, t)), z)

    def draw_at(self, key, model, z, t, where):
        if isinstance(model, JointModel):
            return self.draw(key, model, z, t)

        def drawn(out, draws, z, t):
            return categorical_by(draws, out)

        draws = uniforms(key, (*z.shape, self.num_tokens))
        return at_positions(model, drawn, where & (z == self.mask), draws, z, t)

    def counted(self, z: Array) -> Array:
        return z == self.mask

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        return jnp.where(z == self.mask, self.weight(t) * _cross_entropy(out, x0), 0)

    def weight(self, t: Array) -> Array:
        """w(t) of a time of the bound: what a masked position's cross-entropy counts, as t."""
        if self.num_steps is None:
            return masked_weight(self.schedule, t)
        weights = jnp.asarray(masked_weights(self.schedule, self.num_steps), t.dtype)
        return weights[jnp.round(t * self.num_steps).astype(jnp.int32)]

    def log_ratio(self, out: Array, z: Array, t: Array) -> Array:
        """As the interface; -inf for what the reverse process never does: leave a revealed token."""
        ratio = jax.nn.log_softmax(out) + self.log_odds(t)[..., None]
        masked = jnp.concatenate([ratio, jnp.zeros_like(ratio[..., :1])], axis=-1)
        return jnp.where((z == self.mask)[..., None], masked, log_one_hot(z, self.num_states))


def _cross_entropy(out, x0):
    """-log softmax(out)[x0]: (B, L) nats from out (B, L, V) and x0 (B, L)."""
    return jax.nn.logsumexp(out, axis=-1) - gather_last(out, x0)
