"""Duo: uniform diffusion with a curriculum from normal noise (Sahoo et al., arXiv 2506.10892).

Normal noise on one-hot vectors has uniform noise inside. Of

    w = a e_x0 + b n,    n normal,  a^2 + b^2 = 1,  gamma = log(b^2 / a^2),  r = a / b = exp(-gamma / 2)

z = argmax w is x0 with the probability P(r) = int phi(y) Phi(y + r)^(V - 1) dy, and else any other token
alike: a draw of UDLM's noise with

    alpha = T(r) = (V P(r) - 1) / (V - 1).

In the first steps of training the network reads softmax(w / tau) in the place of z, which is the mean of
the embeddings by these weights, at the time t where alpha(t) = T(r); gamma is drawn evenly from
[gamma_min, gamma_max], from where nearly all tokens are kept to where few are. What is minimised is the
integrand f of UDLM's bound at z, weighed by how densely these times lie,

    E_u |d T / d u| / |alpha'(t)| f(out, x0, z, t),    gamma = gamma_min + u (gamma_max - gamma_min).

As tau goes to 0 the network reads z itself, and this is the part of the bound between the two times:
with the published tau = 1e-3 nearly so, since w / tau has differences of hundreds. After the curriculum
the loss is UDLM's. The bound that is reported, and sampling, are UDLM's from the first step on.
"""

import copy
import functools
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import log_ndtr

from diffusion.kernels import Uniform
from diffusion.model import Model, at_positions
from diffusion.numerics import in_float64
from diffusion.process import Traits
from diffusion.random import normal
from diffusion.schedules import time_of
from diffusion.udlm import UDLM

PUBLISHED_ALPHAS = (0.9455, 0.0493)  # of gamma = -3.55 and -1.85 at 50,258 tokens


def kept_by_argmax(gamma: Array, vocab_size: int) -> tuple[Array, Array]:
    """(T, 1 - T), each of the shape of gamma: how likely argmax w is to keep the token, and to be drawn
    anew from all V, each to its own precision. By the trapezoidal rule, exact to rounding for a normal
    density: T with T(0) = 0 taken off under the integral, so that nothing cancels."""
    y = np.linspace(-9, 9, 257)
    density = np.exp(-(y**2) / 2) / np.exp(-(y**2) / 2).sum() * vocab_size / (vocab_size - 1)
    weights, y = (
        jnp.asarray(a, gamma.dtype).reshape((1,) * gamma.ndim + (-1,)) for a in (density, y)
    )
    below, before = (
        (vocab_size - 1) * log_ndtr(x) for x in (y + jnp.exp(-gamma / 2)[..., None], y)
    )
    kept = jnp.sum(weights * (jnp.exp(below) - jnp.exp(before)), axis=-1)
    return kept, -jnp.sum(weights * jnp.expm1(below), axis=-1)


@functools.lru_cache
def gamma_of(alpha: float, vocab_size: int) -> float:
    """The gamma at which argmax w keeps the share alpha of the tokens, to about 1e-3."""
    gamma = np.linspace(8, -8, 801)
    kept = in_float64(lambda g: kept_by_argmax(g, vocab_size)[0], gamma)
    return float(np.interp(alpha, kept, gamma))


@dataclass(frozen=True)
class Duo(UDLM):
    """UDLM that begins its training with the curriculum.

    curriculum_steps: how many steps of training have it; published 500,000 of a million, and 0 is UDLM.
    tau: the temperature of the softmax, above 0. gamma_min, gamma_max: between which gamma is drawn;
    None is where alpha is 0.9455 and 0.0493: -3.55 and -1.85, as published, for 50,258 tokens.
    """

    curriculum_steps: int = 500_000
    tau: float = 1e-3
    gamma_min: float | None = None
    gamma_max: float | None = None
    _step: ClassVar[Array | None] = None  # until `at_step` says one

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.kernel, Uniform):
            raise ValueError(
                f"Duo.kernel = {type(self.kernel).__name__}: the curriculum is of uniform noise; use "
                "Uniform, or UDLM without a curriculum"
            )
        if self.curriculum_steps < 0:
            raise ValueError(f"Duo.curriculum_steps = {self.curriculum_steps} must not be negative")
        if not self.tau > 0:
            raise ValueError(f"Duo.tau = {self.tau} must be positive")
        if self.vocab_size is not None:
            low, high = self.gammas
            if not low < high:
                raise ValueError(f"Duo.gamma_min = {low:g} must be below gamma_max = {high:g}")

    @property
    def gammas(self) -> tuple[float, float]:
        """gamma_min and gamma_max, those that are None for the vocabulary at hand."""
        given = (self.gamma_min, self.gamma_max)
        low, high = (
            gamma_of(alpha, self.num_tokens) if gamma is None else gamma
            for gamma, alpha in zip(given, PUBLISHED_ALPHAS, strict=True)
        )
        return low, high

    @property
    def traits(self) -> Traits:
        """As `Objective.traits`: the curriculum minimises another integral than the bound's."""
        return replace(super().traits, own_loss=self.curriculum_steps > 0)

    def check(self, experiment: Any) -> None:
        if self.curriculum_steps == 0:
            return
        if "simplex" not in experiment.model.inputs:
            raise ValueError(
                f"model {type(experiment.model).__name__} does not take weights of tokens, which the "
                "curriculum of Duo makes; use Transformer, or process=UDLM"
            )
        if experiment.data.rows == "pair":
            raise ValueError(
                "data.rows = 'pair': the curriculum of Duo has no clean prompts; use process=UDLM"
            )

    def at_step(self, step: Array) -> Self:
        bound = copy.copy(self)
        object.__setattr__(bound, "_step", step)
        return bound

    def loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        """As the interface; the curriculum's where `at_step` has said that it is on."""
        if self._step is None or self.curriculum_steps == 0:
            return super().loss(key, model, x0, u)
        return jax.lax.cond(
            self._step < self.curriculum_steps,
            lambda: self.curriculum_loss(key, model, x0, u),
            lambda: UDLM.loss(self, key, model, x0, u),
        )

    def bound_terms(self, key, model, x0, u):
        return UDLM.bound_terms(replace(self), key, model, x0, u)  # of no step of training

    def curriculum_loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        """(B, L) nats to minimise while the curriculum lasts, of u (B, 1) in (0, 1)."""
        gamma, t, density = self.curriculum_times(u)
        weights = self.soft_tokens(key, x0, gamma)

        def of_argmax(out, x0, weights, t):
            return self.token_loss(out, x0, jnp.argmax(weights, axis=-1), t)

        return density * at_positions(model, of_argmax, None, x0, weights, t)

    def curriculum_times(self, u: Array) -> tuple[Array, Array, Array]:
        """(gamma, t, |dt / du|), each (B, 1): where the noise of gamma stands on the schedule."""

        low, high = self.gammas

        def kept(u):
            gamma = low + u * (high - low)
            alpha, moved = kept_by_argmax(gamma, self.num_tokens)
            return alpha, (gamma, jnp.log(moved))

        _, slope, (gamma, log_moved) = jax.jvp(kept, (u,), (jnp.ones_like(u),), has_aux=True)
        t = time_of(self.schedule, log_moved)
        return gamma, t, slope / self.schedule.dalpha(t)

    def soft_tokens(self, key: Array, x0: Array, gamma: Array) -> Array:
        """softmax(w / tau), (B, L, V)."""
        V = self.num_tokens
        clean, noise = (jnp.sqrt(jax.nn.sigmoid(g))[..., None] for g in (-gamma, gamma))
        w = clean * jax.nn.one_hot(x0, V, dtype=gamma.dtype)
        w = w + noise * normal(key, (*x0.shape, V), gamma.dtype)
        return jax.nn.softmax(w / self.tau, axis=-1)
