"""GenMD4: masked diffusion with a learned, token-dependent schedule (Shi et al., arXiv 2406.04329).

    alpha_v(t) = 1 - (1 - eps) t^(w_v)        w_v = softplus(theta_v), one theta per token, learned

The forward process depends on theta, so the gradient of the bound has two parts: through the integrand,
and through the distribution of z_t. The second is estimated by REINFORCE with a leave-one-out baseline
from two noisy copies of the sequence,

    1/2 (L(z) - L(z')) grad [log q(z | x0) - log q(z' | x0)],

whose value is not part of the loss, only its gradient. Published: eps = 1e-4, powers started at 1.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.markov import Head
from diffusion.numerics import gather_last, log1mexp, log_quotient
from diffusion.process import Kind, Traits
from diffusion.random import split
from diffusion.token_masking import TokenMasking


@dataclass(frozen=True)
class GenMD4(TokenMasking):
    """Before `bind`, the schedule that training starts from: every w is `initial_power`.

    eps: what is kept of every token at t = 1; 0 gives exact ends, the paper has 1e-4. initial_power: w
    at the start; 1 is the linear schedule. head: "posterior" is the published one; with "leave_one_out"
    the network need not know the time.
    """

    vocab_size: int | None = None
    eps: float = 0.0
    initial_power: float = 1.0
    head: Head = "posterior"
    num_steps: ClassVar[None] = None
    # The gradient takes sums over a row.
    traits: ClassVar[Traits] = Traits(own_parameters=True, whole_rows=True)
    likelihood: ClassVar[Kind] = "bound"

    def __post_init__(self):
        if not 0 <= self.eps < 1:
            raise ValueError(f"GenMD4.eps = {self.eps} is outside [0, 1); 0 gives exact ends")
        if not self.initial_power > 0:
            raise ValueError(f"GenMD4.initial_power = {self.initial_power} must be positive")

    def init(self, key: Array) -> dict:
        """{"theta": (V,)}, with softplus(theta) = initial_power."""
        theta = jnp.log(jnp.expm1(self.initial_power))
        return {"theta": jnp.full(self.num_tokens, theta)}

    def bind(self, params: dict) -> Self:
        bound = copy.copy(self)
        vars(bound)["_learned"] = jax.nn.softplus(params["theta"])
        return bound

    @property
    def power(self) -> Array:
        """w, (V,): what was bound, or `initial_power`."""
        return vars(self).get("_learned", jnp.full(self.num_tokens, self.initial_power))

    def log_masked(self, t: Array) -> Array:
        # At t = 0 log t is -inf; w * -inf has no gradient in w, and none is wanted.
        log_t = jnp.maximum(jnp.log(t), -1e30)[..., None]
        return jnp.log1p(-self.eps) + self._power(t) * log_t

    def _log_stay(self, t, s, elapsed=None):
        return self._power(t) * jnp.maximum(log_quotient(s, t), -1e30)[..., None]

    def weight(self, t: Array) -> Array:
        return self._power(t) / t[..., None]

    def loss(self, key, model, x0, u):
        t = self.time(u)
        pair = [self.corrupt(k, x0, t) for k in split(key)]
        losses = [self.loss_of(model, x0, z, t) for z in pair]
        log_q = [self._log_q(z, x0, t) for z in pair]
        gap = jax.lax.stop_gradient(losses[0] - losses[1]).sum(-1, keepdims=True)
        surrogate = gap * (log_q[0] - log_q[1])
        return (losses[0] + losses[1] + surrogate - jax.lax.stop_gradient(surrogate)) / 2

    def _log_q(self, z, x0, t):
        """log q(z_t | x0), (B, L)."""
        log_masked = gather_last(self.log_masked(t), x0)
        masked = z == self.num_tokens
        kept = log1mexp(jnp.where(masked, -1.0, log_masked))
        return jnp.where(masked, log_masked, kept)

    def _power(self, t):
        power = self.power.astype(t.dtype)
        return power.reshape((1,) * t.ndim + power.shape)

    def _boundary_terms(self, key, model, x0, u):
        if self.eps == 0:
            return {}
        return {"prior": jnp.full(x0.shape, self.eps * jnp.log(self.num_tokens), u.dtype)}
