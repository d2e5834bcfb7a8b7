"""Masked diffusion whose schedule depends on the token: alpha_v(t) for each v of V.

Forward: token v is kept with probability alpha_v(t), else masked. Given the mask, tokens are not equally
likely any more: p(x0 = v | z_t, masked) is proportional to leave-one-out times 1 - alpha_v(t). With mu
that posterior, the exact reverse process reveals v at rate mu_v w_v(t), w_v = -alpha_v' / (1 - alpha_v):

    -log p(x0) <= E_t sum_(masked i) [ -w_x (1 + log mu_x) + sum_v w_v mu_v ] + boundary terms

(GenMD4, arXiv 2406.04329), the divergence of the rates w_x e_x and w mu. On a grid of T steps, with
r_v = (alpha_v(s) - alpha_v(t)) / (1 - alpha_v(t)) the chance that a masked v is revealed,

    T KL_k = T [ -r_x log mu_x + (1 - r_x) (log(1 - r_x) - log sum_v mu_v (1 - r_v)) ].

The bridge is the exact one of the token: nothing here is an approximation.
"""

from abc import abstractmethod
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.kernels import draw_token
from diffusion.markov import Head
from diffusion.numerics import bregman, gather_last, log1mexp, log_divide, log_one_hot, log_softmax
from diffusion.process import RateProcess, TimeIntegral
from diffusion.random import split, uniform


class TokenMasking(RateProcess, TimeIntegral):
    """A subclass has vocab_size, num_steps and head, and gives `log_masked` and `weight`."""

    vocab_size: int | None
    num_steps: int | None
    head: Head
    """What the network holds (`diffusion.markov`)."""
    known_tokens: ClassVar[str] = "exact"

    @abstractmethod
    def log_masked(self, t: Array) -> Array:
        """log(1 - alpha_v(t)), (..., V) from t (...)."""

    @abstractmethod
    def weight(self, t: Array) -> Array:
        """-alpha_v'(t) / (1 - alpha_v(t)), (..., V) from t (...)."""

    @property
    def num_states(self) -> int:
        return self.num_tokens + 1

    def time(self, u: Array) -> Array:
        return u if self.num_steps is None else jnp.ceil(u * self.num_steps) / self.num_steps

    def prior(self, key: Array, shape: tuple[int, int]) -> Array:
        """The mean of q(z_1 | x) over all tokens x."""
        key_kept, key_token = split(key)
        token = draw_token(key_token, shape, self.num_tokens)
        return self.corrupt(key_kept, token, jnp.ones((shape[0], 1)))

    def corrupt(self, key: Array, x0: Array, t: Array) -> Array:
        masked = jnp.log(uniform(key, x0.shape, t.dtype)) < gather_last(self.log_masked(t), x0)
        return jnp.where(masked, self.num_tokens, x0)

    def log_likelihood(self, z: Array, t: Array) -> Array:
        log_masked = self.log_masked(t)
        kept = log_one_hot(z, self.num_tokens) + log1mexp(log_masked)
        return jnp.where((z == self.num_tokens)[..., None], log_masked, kept)

    def predict(self, out: Array, z: Array, t: Array) -> Array:
        log_p = log_softmax(out)
        if self.head == "leave_one_out":
            log_p = log_softmax(log_p + self.log_masked(t))
        return jnp.where((z == self.num_tokens)[..., None], log_p, log_one_hot(z, self.num_tokens))

    def invert_predict(self, log_p0: Array, z: Array, t: Array) -> Array:
        return log_p0 if self.head == "posterior" else log_divide(log_p0, self.log_likelihood(z, t))

    def counted(self, z: Array) -> Array:
        return z == self.num_tokens

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        masked = z == self.num_tokens
        log_mu = self.predict(out, jnp.full_like(z, self.num_tokens), t)
        of_x0 = gather_last(log_mu, x0)
        if self.num_steps is None:
            # Terms of v != x0 are w_v mu_v; that of x0 is w_x (mu_x - 1 - log mu_x).
            weight = self.weight(t)
            others = jnp.where(
                jnp.isneginf(log_one_hot(x0, self.num_tokens)), weight * jnp.exp(log_mu), 0
            )
            loss = others.sum(-1) + gather_last(weight, x0) * bregman(of_x0)
        else:
            s = (jnp.round(t * self.num_steps) - 1) / self.num_steps
            log_stay = self._log_stay(t, s, 1 / self.num_steps)
            stay = gather_last(log_stay, x0)
            certain = jnp.isneginf(stay)  # x0 does not stay masked, and the excess has no weight
            # log(stay_x / sum_v mu_v stay_v) as a sum of small numbers, as sum mu is 1 only to rounding.
            apart = log_stay - jnp.where(certain, 0, stay)[..., None]
            apart = jnp.where(certain[..., None], 0, jnp.minimum(apart, 80))
            excess = -jnp.log1p(jnp.sum(jnp.exp(log_mu) * jnp.expm1(apart), axis=-1))
            loss = self.num_steps * (jnp.expm1(stay) * of_x0 + jnp.exp(stay) * excess)
        return jnp.where(masked, loss, 0)

    def bound_terms(self, key, model, x0, u):
        """The interface's; the reconstruction of a grid's first step is its general term."""
        key_diffusion, key_start = split(key)
        t = self.time(u)
        z = self.corrupt(key_diffusion, x0, t)
        terms = {"diffusion": self.loss_of(model, x0, z, t)}
        return terms | self._boundary_terms(key_start, model, x0, u)

    def bridge(self, key: Array, x0: Array, z: Array, t: Array, s: Array) -> Array:
        stay = gather_last(self._log_stay(t, s), x0)
        reveal = jnp.log(uniform(key, z.shape, t.dtype)) >= stay
        return jnp.where((z == self.num_tokens) & reveal, x0, z)

    def log_posterior(self, log_p0: Array, z: Array, t: Array, s: Array) -> Array:
        log_stay = self._log_stay(t, s)
        stay = jax.nn.logsumexp(log_p0 + log_stay, axis=-1, keepdims=True)
        masked = jnp.concatenate([log_p0 + log1mexp(log_stay), stay], axis=-1)
        return jnp.where((z == self.num_tokens)[..., None], masked, log_one_hot(z, self.num_states))

    def log_reverse_rate(self, out: Array, z: Array, t: Array) -> Array:
        log_mu = self.predict(out, jnp.full_like(z, self.num_tokens), t)
        rate = log_mu + jnp.log(self.weight(t))
        rate = jnp.concatenate([rate, jnp.full_like(rate[..., :1], -jnp.inf)], axis=-1)
        return jnp.where((z == self.num_tokens)[..., None], rate, -jnp.inf)

    def log_ratio(self, out: Array, z: Array, t: Array) -> Array:
        """As the interface; -inf for what the reverse process never does: leave a revealed token, or
        reveal one that is certainly not masked yet."""
        log_masked = self.log_masked(t)
        log_mu = self.predict(out, jnp.full_like(z, self.num_tokens), t)
        ratio = log_divide(log_mu, log_masked) + log1mexp(log_masked)
        masked = jnp.concatenate([ratio, jnp.zeros_like(ratio[..., :1])], axis=-1)
        return jnp.where((z == self.num_tokens)[..., None], masked, log_one_hot(z, self.num_states))

    def _log_stay(self, t, s, elapsed=None):
        """log((1 - alpha_v(s)) / (1 - alpha_v(t))), (..., V): that a masked v is not revealed. elapsed:
        t - s, where it is known to more digits than the difference of the times has."""
        return jnp.minimum(log_divide(self.log_masked(s), self.log_masked(t)), 0)

    def _boundary_terms(self, key, model, x0, u):
        return {}
