"""GIDD: masks and uniform tokens as noise together (von Rütte et al., arXiv 2503.04482).

With u uniform over the V data tokens and m the mask,

    q(z_t | x) = [ (1 - t) x + t m + c u ] / (1 + c),    c(t) = B t^(gamma / 2) (1 - t)^(gamma_end / 2),

where B is such that a share p_uniform of all positions holds a token of u at t = 1/2. Whatever stands at
a position, the mask too, becomes y at a rate that depends on y alone,

    R_m = 1 / ((1 - t) (1 + c)),    R_v = h c / (V (1 + c)),
    h = gamma / (2 t) + (2 - gamma_end) / (2 (1 - t)),

so for rates as for steps q is closed under composition, and the bound is that of two jump processes:
with qhat = q(z_t | c) of the leave-one-out distribution that the network puts out, in place of x,

    -log p(x0) <= E_t sum_i w(z) [ KL(q(. | x0) || qhat) + r - log r - 1 ],     r = q(z | x0) / qhat(z)
                = E_t sum_i w(z) sum_y q(y | x0) D(log qhat(y) - log q(y | x0) + log r),

    w(z) = R_z / q(z | x0),    D(d) = exp(d) - 1 - d.

The first form is the published one, the second is computed: none of its terms is negative. Ends are
exact, alpha(0) = 1 and alpha(1) = 0 with a z_1 that knows nothing of x0, and so there is no boundary
term; the official code keeps t within [1e-4, 1 - 1e-4] and drops what lies outside. With p_uniform = 0
all of it is MDLM with alpha = 1 - t, and as p_uniform nears 1 the bound nears UDLM's.

w(z) has no limit near both ends of time. The published training ("dynamic") has in its place

    2 of masks,    1 of tokens that noise put there,    B / S exp(gamma / 2 sigmoid(-t)) of clean ones,

at most 2, with S = V + 1 states.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.chains import Chain
from diffusion.kernels import draw_token
from diffusion.markov import MarkovProcess
from diffusion.numerics import (
    bregman,
    gather_last,
    log1mexp,
    log_divide,
    log_one_hot,
    log_quotient,
    logaddexp,
)
from diffusion.process import Kind, KnownTokens, RateProcess, StateWeighted
from diffusion.random import categorical, split, uniform
from diffusion.schedules import Linear, Schedule


class Shares(NamedTuple):
    """log of the probabilities that a position is kept, masked, and drawn anew; each of rank 2."""

    keep: Array
    mask: Array
    anew: Array


@dataclass(frozen=True)
class MixedNoise(Chain):
    """The distribution of one position: kept, masked or drawn anew, in shares that depend on t.

    vocab_size: V. log_scale: log B, -inf for masks alone. rise, fall: the powers of t and of 1 - t in c,
    0 < rise and 0 <= fall <= 1, so that c / (1 - t) never falls.
    """

    vocab_size: int
    log_scale: float
    rise: float
    fall: float

    @property
    def num_states(self) -> int:
        """S = V + 1, the last the mask."""
        return self.vocab_size + 1

    def log_c(self, t: Array) -> Array:
        """log c(t), of the shape of t."""
        return self.log_scale + self.rise * jnp.log(t) + _times(self.fall, jnp.log1p(-t))

    def log_hazard(self, t: Array) -> Array:
        """log h(t), by which a token drawn anew is drawn anew again; of the shape of t."""
        return jnp.log(self.rise / t + (1 - self.fall) / (1 - t))

    def at(self, t: Array) -> Shares:
        """The shares at time t."""
        log_c = self.log_c(t)
        total = jax.nn.softplus(log_c)  # log (1 + c)
        return Shares(jnp.log1p(-t) - total, jnp.log(t) - total, log_c - total)

    def step(self, t: Array, s: Array) -> Shares:
        """The shares of the step from s up to t, to all digits however close the two are.

        Drawn anew are c_t - c_s (1 - t) / (1 - s) of 1 + c_t, by how far c / (1 - t) rises.
        """
        s = jnp.minimum(s, t)
        log_c, total = self.log_c(t), jax.nn.softplus(self.log_c(t))
        log_left = _log_left(t, s)
        rises = -self.rise * log_quotient(s, t) - _times(1 - self.fall, log_left)
        kept = log_left + jax.nn.softplus(self.log_c(s)) - total
        masked = log_divide(jnp.log(t - s), jnp.log1p(-s)) - total
        anew = log_c + log1mexp(-jnp.maximum(rises, 0)) - total
        return Shares(jnp.minimum(kept, 0), masked, anew)

    def draw_prior(self, key: Array, shape: tuple[int, int]) -> Array:
        x = jnp.zeros(shape, jnp.int32)  # of which nothing is left
        return self.draw_marginal(key, x, jnp.ones((shape[0], 1)))

    def draw_marginal(self, key: Array, x: Array, t: Array) -> Array:
        return self._draw(key, x, self.at(t))

    def draw_step(self, key: Array, z: Array, t: Array, s: Array) -> Array:
        """z_t ~ q(z_t | z_s = z), (B, L): noise from s up to t."""
        return self._draw(key, z, self.step(t, s))

    def draw_bridge(self, key: Array, x: Array, z: Array, t: Array, s: Array) -> Array:
        """As the interface, in O(1): q(z_t | z_s) q(z_s | x) is a mixture of z_s = z, z_s = x, the mask,
        and any token."""
        key_which, key_token = split(key)
        step, then = self.step(t, s), self.at(s)
        into = self._of_state(z, step)
        both = jnp.where(x == z, then.keep, -jnp.inf)
        old = step.keep + logaddexp(self._of_state(z, then), both)
        weights = (old, into + then.keep, into + then.mask, into + then.anew)
        which = categorical(key_which, jnp.stack(weights, axis=-1))
        token = draw_token(key_token, z.shape, self.vocab_size)
        noise = jnp.where(which == 2, self.vocab_size, token)
        return jnp.where(which == 0, z, jnp.where(which == 1, x, noise))

    def log_marginal(self, x: Array, t: Array) -> Array:
        return self.log_mix(log_one_hot(x, self.num_states), t)

    def log_mix(self, log_weights: Array, t: Array) -> Array:
        now = self.at(t)
        missing = self.num_states - log_weights.shape[-1]
        padded = jnp.pad(log_weights, ((0, 0), (0, 0), (0, missing)), constant_values=-jnp.inf)
        total = jax.nn.logsumexp(log_weights, axis=-1, keepdims=True)
        state = jnp.arange(self.num_states)[None, None]
        noise = self._of_state(state, Shares(*(share[..., None] for share in now)))
        return logaddexp(now.keep[..., None] + padded, total + noise)

    def log_likelihood(self, z: Array, t: Array) -> Array:
        return self._column(z, self.at(t), self.vocab_size)

    def log_step(self, z: Array, t: Array, s: Array) -> Array:
        return self._column(z, self.step(t, s), self.num_states)

    def prior_divergence(self, x, dtype):
        """None: nothing of x is left at t = 1."""

    def _of_state(self, z, shares):
        """log of the probability that noise puts z where it is put anywhere, of the shape of z."""
        token = shares.anew - math.log(self.vocab_size)
        return jnp.where(z == self.vocab_size, shares.mask, token)

    def _column(self, z, shares, size):
        kept = shares.keep[..., None] + log_one_hot(z, size)
        return logaddexp(kept, self._of_state(z, shares)[..., None])

    def _draw(self, key, x, shares):
        key_where, key_token = split(key)
        log_u = jnp.log(uniform(key_where, x.shape, shares.mask.dtype))
        token = draw_token(key_token, x.shape, self.vocab_size)
        drawn = jnp.where(log_u < logaddexp(shares.mask, shares.anew), token, x)
        return jnp.where(log_u < shares.mask, self.vocab_size, drawn)


def _times(power: float, log: Array) -> Array:
    """power * log, 0 where the power is, also of a log of 0."""
    return power * log if power else jnp.zeros_like(log)


def _log_left(t: Array, s: Array) -> Array:
    """log((1 - t) / (1 - s)) for s <= t, to full relative precision where they are close."""
    gap, rest = t - s, 1 - s
    close = gap < rest / 2
    near = jnp.log1p(-jnp.where(close, gap / rest, 0))
    return jnp.where(close, near, log_divide(jnp.log1p(-t), jnp.log1p(-s)))


@dataclass(frozen=True)
class GIDD(MarkovProcess, RateProcess, StateWeighted):
    """Masks and uniform tokens together, in continuous time.

    p_uniform: the share of positions that hold a uniformly drawn token at t = 1/2, in [0, 1); published
    are 0, 0.1 and 0.2. gamma: twice the power of t in c, above 0. gamma_end: twice that of 1 - t, from 0
    to 2; None takes gamma, as published. With 0 uniform tokens are left at t = 1; gamma = 2,
    gamma_end = 0 and p_uniform = k / (2 - k) are XDLM's fixed mixture (arXiv 2602.01362) of k uniform
    tokens to 1 - k masks, at other times.
    """

    vocab_size: int | None = None
    p_uniform: float = 0.1
    gamma: float = 1.0
    gamma_end: float | None = None
    head: ClassVar[str] = "leave_one_out"
    likelihood: ClassVar[Kind] = "bound"

    def __post_init__(self):
        if not 0 <= self.p_uniform < 1:
            raise ValueError(
                f"GIDD.p_uniform = {self.p_uniform} is outside [0, 1); 0 means only masks, as in "
                "MDLM; for only uniform noise, use UDLM"
            )
        if not self.gamma > 0:
            raise ValueError(f"GIDD.gamma = {self.gamma} must be positive; the paper uses 1")
        if not 0 <= self._gamma_end <= 2:
            name = "gamma" if self.gamma_end is None else "gamma_end"
            raise ValueError(
                f"GIDD.{name} = {self._gamma_end} is outside [0, 2]: near t = 1 uniform tokens would "
                "have to turn back into data"
            )

    @property
    def _gamma_end(self) -> float:
        return self.gamma if self.gamma_end is None else self.gamma_end

    @property
    def known_tokens(self) -> KnownTokens:
        """What a known token that stands clean in the state means: "exact" with masks alone."""
        return "biased" if self.p_uniform else "exact"

    @property
    def masked_schedule(self) -> Schedule | None:
        """alpha(t) = 1 - t with masks alone, else None."""
        return None if self.p_uniform else Linear()

    @cached_property
    def log_scale(self) -> float:
        """log B: c(1/2) = p_uniform / (1 - p_uniform)."""
        if self.p_uniform == 0:
            return -math.inf
        powers = (self.gamma + self._gamma_end) / 2
        return math.log(self.p_uniform) - math.log1p(-self.p_uniform) + powers * math.log(2)

    @property
    def chain(self) -> MixedNoise:
        """The distribution q of one position."""
        return MixedNoise(self.num_tokens, self.log_scale, self.gamma / 2, self._gamma_end / 2)

    def counted(self, z: Array) -> Array | None:
        return None if self.p_uniform else z == self.num_tokens

    def weight(self, x0: Array, z: Array, t: Array) -> Array:
        """w(z) of the bound, (B, L): the rate of jumping into z, over its probability given x0."""
        now, anew = self.chain.at(t), jnp.exp(self.chain.log_hazard(t))
        share = now.anew - math.log(self.num_tokens)
        clean = anew * jnp.exp(share - logaddexp(now.keep, share))
        masked = 1 / (t * (1 - t))
        return jnp.where(z == self.num_tokens, masked, jnp.where(z == x0, clean, anew))

    def training_weight(self, x0: Array, z: Array, t: Array) -> Array:
        """As the interface; 0 where the bound has no weight."""
        scale = math.exp(self.log_scale) / self.num_states
        clean = scale * jnp.exp(self.gamma / 2 * jax.nn.sigmoid(-t))
        wanted = jnp.where(z == self.num_tokens, 2, jnp.where(z == x0, jnp.minimum(clean, 2), 1))
        weight = self.weight(x0, z, t)
        return jnp.where(weight > 0, wanted / jnp.where(weight > 0, weight, 1), 0)

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        V, now = self.num_tokens, self.chain.at(t)
        weight = self.weight(x0, z, t)
        # kappa = V alpha / (share drawn anew): qhat and q of a token are 1 + kappa c and
        # 1 + kappa [y = x0], times what noise puts there. With masks alone it would be infinite.
        log_kappa = jnp.clip(now.keep - now.anew + math.log(V), -80, 80)
        gain = jax.nn.softplus(log_kappa[..., None] + self.leave_one_out(out, z, t))
        is_x0 = jax.nn.one_hot(x0, V, dtype=bool)
        d = gain - jnp.where(
            is_x0, jax.nn.softplus(log_kappa)[..., None], 0
        )  # log qhat(y) / q(y | x0)
        # log r; the mask's qhat is its q, and what has no weight has none to pay.
        log_r = jnp.where((z == V) | (weight == 0), 0, -gather_last(d, jnp.minimum(z, V - 1)))
        terms = bregman(d + log_r[..., None])
        total = jnp.exp(now.keep - log_kappa) * terms.sum(-1)
        total = total + jnp.exp(now.keep) * gather_last(terms, x0)
        return weight * (total + jnp.exp(now.mask) * bregman(log_r))

    def log_reverse_rate(self, out: Array, z: Array, t: Array) -> Array:
        t = jnp.minimum(t, 1 - 1e-6)  # at 1 rates are infinite
        now = self.chain.at(t)
        masked = now.mask - jnp.log(t) - jnp.log1p(-t)
        token = now.anew + self.chain.log_hazard(t) - math.log(self.num_tokens)
        rate = jnp.where(z == self.num_tokens, masked, token)
        rate = self.log_ratio(out, z, t) + rate[..., None]
        return jnp.where(log_one_hot(z, self.num_states) == 0, -jnp.inf, rate)
