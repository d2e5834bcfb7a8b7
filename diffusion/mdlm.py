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

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from diffusion.process import Likelihood, TimeIntegral
from diffusion.random import categorical, split, uniform
from diffusion.schedules import Linear, Schedule, masked_weight


@dataclass(frozen=True)
class MDLM(TimeIntegral):
    """The absorbing process with the SUBS parameterisation; `vocab_size` None means: the data's."""

    vocab_size: int | None = None
    schedule: Schedule = Linear()
    num_steps: int | None = None  # T of the discrete-time bound; None is continuous time
    likelihood: ClassVar[Likelihood] = "bound"

    def __post_init__(self):
        if self.vocab_size is not None and self.vocab_size < 1:
            raise ValueError(f"MDLM.vocab_size = {self.vocab_size} must be at least 1")
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"MDLM.num_steps = {self.num_steps} must be at least 1, or None")

    @property
    def mask(self) -> int:
        return self.vocab_size

    @property
    def num_states(self) -> int:
        return self.vocab_size + 1

    def time(self, u):
        if self.num_steps is None:
            return u
        return jnp.ceil(u * self.num_steps) / self.num_steps

    def prior(self, key, shape):
        key_kept, key_token = split(key)
        kept = jnp.log(uniform(key_kept, shape)) < self.schedule.log_alpha(jnp.ones(()))
        token = (uniform(key_token, shape) * self.vocab_size).astype(jnp.int32)
        return jnp.where(kept, token, self.mask)

    def corrupt(self, key, x0, t):
        masked = jnp.log(uniform(key, x0.shape, t.dtype)) < self.schedule.log1m_alpha(t)
        return jnp.where(masked, self.mask, x0)

    def predict(self, out, z, t):
        carried = _at(z, self.vocab_size)
        return jnp.where((z == self.mask)[..., None], jax.nn.log_softmax(out), carried)

    def token_loss(self, out, x0, z, t):
        if self.num_steps is None:
            weight = masked_weight(self.schedule, t)
        else:
            s = (jnp.round(t * self.num_steps) - 1) / self.num_steps
            weight = self.num_steps * self._reveal_probability(t, s)
        return jnp.where(z == self.mask, weight * _cross_entropy(out, x0), 0)

    def bound_terms(self, key, model, x0, u):
        key_diffusion, key_start = split(key)
        terms = super().bound_terms(key_diffusion, model, x0, u)
        with jax.ensure_compile_time_eval():
            masked_at_0 = float(jnp.exp(self.schedule.log1m_alpha(jnp.zeros(()))))
            alpha_1 = float(jnp.exp(self.schedule.log_alpha(jnp.ones(()))))
        if masked_at_0 > 0:
            t = jnp.zeros_like(u)
            z = self.corrupt(key_start, x0, t)
            loss = jnp.where(z == self.mask, _cross_entropy(model(z, t), x0), 0)
            terms["reconstruction"] = loss
        if alpha_1 > 0:
            terms["prior"] = jnp.full(x0.shape, alpha_1 * jnp.log(self.vocab_size), u.dtype)
        return terms

    def draw(self, key, model, z, t, transform=None):
        log_p0 = self.predict(model(z, t), z, t)
        if transform is not None:
            log_p0 = transform(log_p0)
        return jnp.where(z == self.mask, categorical(key, log_p0), z)

    def bridge(self, key, x0, z, t, s):
        reveal = uniform(key, z.shape, t.dtype) < self._reveal_probability(t, s)
        return jnp.where((z == self.mask) & reveal, x0, z)

    def log_likelihood(self, z, t):
        kept = _at(z, self.vocab_size) + self.schedule.log_alpha(t)[..., None]
        return jnp.where((z == self.mask)[..., None], self.schedule.log1m_alpha(t)[..., None], kept)

    def log_posterior(self, log_p0, z, t, s):
        reveal = jnp.log(self._reveal_probability(t, s))
        stay = self.schedule.log1m_alpha(s) - self.schedule.log1m_alpha(t)
        stay = jnp.broadcast_to(stay, z.shape)[..., None]
        masked = jnp.concatenate([log_p0 + reveal[..., None], stay], axis=-1)
        return jnp.where((z == self.mask)[..., None], masked, _at(z, self.num_states))

    def log_ratio(self, out, z, t):
        """As the interface; -inf for what the reverse process never does: leave a revealed token."""
        odds = self.schedule.log_alpha(t) - self.schedule.log1m_alpha(t)
        ratio = jax.nn.log_softmax(out) + odds[..., None]
        masked = jnp.concatenate([ratio, jnp.zeros_like(ratio[..., :1])], axis=-1)
        return jnp.where((z == self.mask)[..., None], masked, _at(z, self.num_states))

    def _reveal_probability(self, t, s):
        """(alpha(s) - alpha(t)) / (1 - alpha(t)), without the cancellation; exactly 1 at s = 0."""
        return -jnp.expm1(self.schedule.log1m_alpha(s) - self.schedule.log1m_alpha(t))


def _at(z, size):
    """(B, L, size): 0 at the state z, -inf elsewhere."""
    return jnp.where(jax.nn.one_hot(z, size, dtype=bool), 0.0, -jnp.inf)


def _cross_entropy(out, x0):
    """-log softmax(out)[x0]: (B, L) nats from out (B, L, V) and x0 (B, L)."""
    picked = jnp.take_along_axis(out, x0[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(out, axis=-1) - picked
