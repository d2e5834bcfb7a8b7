"""Bayesian flow networks on discrete data (Graves et al., arXiv 2308.07037).

Evidence for x0 is received as y ~ N(a (V e_x0 - 1), a V I), a the accuracy, and the state is what Bayes'
rule makes of it: theta <- softmax(log theta + y) from the uniform distribution. Accuracies add, so

    z_t = softmax(acc(t) (V e_x0 - 1) + sqrt(acc(t) V) eps),     acc(1) = 0 (noise), acc(0) = accuracy_1,

per position (the paper's time is 1 - t, its beta(t) our acc(1 - t)). The network, given all positions,
holds p(x0^i | z_t), and what it costs to send x0 by a noisy channel to one who expects p0 is

    T steps:      T E_y [ log N(y | x0) - log sum_k p0(k) N(y | k) ]
                = T E_y [ y_x0 - log sum_k p0(k) e^(y_k) ]
    continuous:   V acc'(t) / 2 ||e_x0 - p0||^2,     acc' = -d acc / dt

(the ratio of two of these normal densities is exp(y_k - y_x0)), with y at the accuracy gained in a step
from t to t - 1/T, and then -log p0(x0) at t = 0. The receiver is a mixture over vectors y, as in the
paper: the official code mixes coordinate by coordinate, which is another distribution and no bound.
At t = 1 nothing has been sent, so there is no prior term.

On V = 2 the network may put out one column, the log-odds of token 1 (the paper's Bernoulli head).
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.markov import Head
from diffusion.numerics import gather_last, in_float64
from diffusion.process import Kind, TimeIntegral, TransitionProcess, check_num_steps
from diffusion.random import normal, split
from diffusion.simplex import EvidenceProcess, log_state


class Accuracy(ABC):
    """What a Bayesian flow has told of x0 by each time."""

    @abstractmethod
    def accuracy(self, t: Array) -> Array:
        """How much has been told of x0 by time t: falls to 0 at t = 1."""

    @abstractmethod
    def gained(self, t: Array, s: Array) -> Array:
        """accuracy(s) - accuracy(t), s <= t."""

    @abstractmethod
    def rate(self, t: Array) -> Array:
        """-d accuracy / dt."""


@functools.lru_cache(maxsize=16)
def gains(schedule: Accuracy, num_steps: int) -> np.ndarray:
    """The accuracy gained from k / T to (k - 1) / T, (T + 1,) for k = 0..T, float64; 0 at k = 0. In
    float32 already the rounding of k / T is a large part of 1 / T."""
    k = np.arange(1, num_steps + 1)
    return np.append(0.0, in_float64(schedule.gained, k / num_steps, (k - 1) / num_steps))


@dataclass(frozen=True)
class PowerAccuracy(Accuracy):
    """accuracy_1 (1 - t)^power. Published: quadratic, with 0.5625 for text8 (V = 27).

    accuracy_1: the accuracy at t = 0, above 0. power: at least 1, for a finite loss at t = 1.
    """

    accuracy_1: float = 0.5625
    power: float = 2.0

    def __post_init__(self):
        if self.accuracy_1 <= 0:
            raise ValueError(f"PowerAccuracy.accuracy_1 = {self.accuracy_1} must be positive")
        if self.power < 1:
            raise ValueError(
                f"PowerAccuracy.power = {self.power} must be at least 1, for a finite loss at t = 1"
            )

    def accuracy(self, t: Array) -> Array:
        return self.accuracy_1 * (1 - t) ** self.power

    def gained(self, t: Array, s: Array) -> Array:
        passed = (t - s) / jnp.maximum(1 - s, jnp.finfo(s.dtype).tiny)
        return -self.accuracy(s) * jnp.expm1(self.power * jnp.log1p(-passed))

    def rate(self, t: Array) -> Array:
        return self.accuracy_1 * self.power * (1 - t) ** (self.power - 1)


@dataclass(frozen=True)
class BFN(EvidenceProcess, TransitionProcess, TimeIntegral):
    """A Bayesian flow network.

    schedule: how the accuracy grows as t falls. num_steps: T of the T-step loss; None is continuous
    time.
    """

    vocab_size: int | None = None
    schedule: Accuracy = PowerAccuracy()
    num_steps: int | None = None
    head: Head = "posterior"
    likelihood: ClassVar[Kind] = "bound"

    def __post_init__(self):
        self.check_size()
        check_num_steps(self, self.num_steps)

    @property
    def token_logits(self) -> bool:
        """`Objective.token_logits`: in T steps what was sent is part of the loss."""
        return self.num_steps is None

    def in_steps(self, num_steps: int | None) -> Self:
        return replace(self, num_steps=num_steps)

    def time(self, u: Array) -> Array:
        if self.num_steps is None:
            return u
        return jnp.ceil(u * self.num_steps) / self.num_steps

    def evidence(self, t: Array) -> Array:
        return jnp.ones_like(t)

    def prior(self, key: Array, shape: tuple[int, int]) -> Array:
        return jnp.full((*shape, self.num_tokens), 1 / self.num_tokens)

    def corrupt(self, key: Array, x0: Array, t: Array) -> Array:
        return jax.nn.softmax(self.send(key, x0, self.schedule.accuracy(t)))

    def send(self, key: Array, x0: Array, accuracy: Array) -> Array:
        """y (B, L, V) ~ N(accuracy (V e_x0 - 1), accuracy V I), accuracy (B, 1) or (B, L)."""
        accuracy, V = accuracy[..., None], self.num_tokens
        noise = normal(key, (*x0.shape, V), accuracy.dtype)
        return (
            accuracy * (V * self.space.pure(x0, noise.dtype) - 1) + jnp.sqrt(accuracy * V) * noise
        )

    def bridge(self, key: Array, x0: Array, z: Array, t: Array, s: Array) -> Array:
        gained = self.schedule.gained(t, s)
        return jax.nn.softmax(log_state(z) + self.send(key, x0, gained))

    def log_transition(self, log_p0, x0, z, z_s, t, s):
        """As the interface; what was sent is log z_s / z_t, up to a constant."""
        sent = log_state(z_s) - log_state(z)
        return jax.nn.logsumexp(log_p0 + sent, axis=-1) - gather_last(sent, x0)

    def predict(self, out: Array, z: Array, t: Array) -> Array:
        if out.shape[-1] == 1 and self.num_tokens == 2:
            out = jax.nn.log_sigmoid(jnp.concatenate([-out, out], axis=-1))
        return super().predict(out, z, t)

    def loss(self, key, model, x0, u):
        if self.num_steps is None:
            return super().loss(key, model, x0, u)
        key_state, key_step = split(key)
        t = self.time(u)
        z = self.corrupt(key_state, x0, t)
        gained = jnp.asarray(gains(self.schedule, self.num_steps), t.dtype)
        gained = gained[jnp.round(t * self.num_steps).astype(jnp.int32)]
        y = self.send(key_step, x0, gained)
        return self.num_steps * self.step_loss(model(z, t), x0, z, t, gained, y)

    def step_loss(
        self, out: Array, x0: Array, z: Array, t: Array, gained: Array, y: Array
    ) -> Array:
        """(B, L) nats with the mean of y_x0 - log sum_k p0(k) e^(y_k) over y, of accuracy `gained`.

        A share of the linear part, y_x0 - sum_k p0(k) y_k, is replaced by its mean over y: in small
        steps it is nearly all of the noise, and T steps would have T times the variance.
        """
        log_p0 = self.predict(out, z, t)
        p0 = jnp.exp(log_p0)
        linear = gather_last(y, x0) - jnp.sum(p0 * y, axis=-1)
        mean = gained * self.num_tokens * (1 - gather_last(p0, x0))
        share = 1 / (1 + gained * self.num_tokens)
        exact = gather_last(y, x0) - jax.nn.logsumexp(log_p0 + y, axis=-1)
        return exact - share * (linear - mean)

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        """The continuous-time loss, (B, L) nats."""
        error = self.space.pure(x0, out.dtype) - jnp.exp(self.predict(out, z, t))
        return self.num_tokens / 2 * self.schedule.rate(t) * jnp.sum(error**2, axis=-1)

    def bound_terms(self, key, model, x0, u):
        key_diffusion, key_start = split(key)
        t = jnp.zeros_like(u)
        z = self.corrupt(key_start, x0, t)
        return {
            "diffusion": self.loss(key_diffusion, model, x0, u),
            "reconstruction": -gather_last(self.predict(model(z, t), z, t), x0),
        }
