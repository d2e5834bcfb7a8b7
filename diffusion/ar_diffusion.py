"""AR-Diffusion: the further right a token stands, the earlier noise comes to it (arXiv 2305.09515).

A sentence of N tokens takes N + T - 2 steps s, and on the way token n = 0 .. N - 1 takes T - 1 of its
own, from clean to noise:

    f(n, s) = max(0, t_e + (n - n_e) (t_s - t_e) / (n_s - n_e)),

on the straight line from the anchor (n_s, t_s) = (max(N - 1 - s, 0), max(s - (N - 1), 0)), which moves,
to the point (n_e, t_e) = (2N, T - 1), which does not. First the anchor goes from the last token to the
first: what stands left of it is clean, and the further right of it, the more noise. Then it rises at the
first token, until all is noise. Backwards, tokens on the left are the first to be finished.

Here s is continuous, t = s / (N + T - 2), and the own time of a token is tau_n(t) = f(n, s) / (T - 1):

    tau_n = max(0, n - n_s + (2N - n) a) / (2N - n_s),    a = t_s / (T - 1),

0 of all tokens at t = 0 and 1 of all at t = 1. A token has the noise of `diffusion.gaussian` at its own
time, gamma_n(t) = gamma(tau_n(t)), and the network is told the times of all. Tokens are noised apart
from each other, and none ever loses noise. So with any estimate that is a function of z_t

    -log p(x0) <= reconstruction + prior + 1/2 int sum_n gamma_n' e^-gamma_n E |e(x0^n) - xhat_n|^2 dt.

The chain that `samplers.mean_ancestral` draws in K steps ("skipping") has a bound too: K - 1 normal
steps, from t = k / K to s = t - 1 / K, are charged their divergence in the place of the integral,

    1/2 sum_{k = 2..K} sum_n (e^-gamma_n(s) - e^-gamma_n(t)) E |e(x0^n) - xhat_n(z_t)|^2,

and the last call draws the tokens: the reconstruction is that of t = 1 / K. (With a normal step to z_0
as well the sum is a bound, but a loose one: a normal step does not choose between tokens.) In continuous
time the exact denoiser has H(p) + KL(q(z_1) || N(0, I)), if the tokens are decoded jointly, as with one
time for all of them: what a state tells of x0 does not depend on the way to it. K steps have more, by
how far normal steps are from those of the exact reverse process. The paper gives no bound.

Its loss weighs all steps of the sentence alike, and reads tokens off z_0 by their vectors alone:

    |e(x0^n) - xhat_n|^2 / D - log p(x0^n | z_0^n),    p(v | z_0^n) of what `log_likelihood` says of v.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.embedded import EmbeddedProcess
from diffusion.gaussian import GivenEmbeddings, LearnedEmbeddings
from diffusion.log_snr import LogSNR, SqrtLogSNR
from diffusion.markov import Head
from diffusion.model import Around, Model, at_positions
from diffusion.numerics import gather_last, log_softmax
from diffusion.process import Traits, check_num_steps
from diffusion.random import split

OBJECTIVES = ("squares", "bound")


@dataclass(frozen=True)
class PositionTimes(Around):
    """A model that is told the own time of each position.

    model: the network. times: times(t, length) -> (B, L).
    """

    model: Model
    times: Callable[[Array, int], Array]

    def __call__(self, z: Array, t: Array, **condition: Array) -> Array:
        """out (B, L, V) of z at the time t of the sentence, (B, 1), or at times of its own, (B, L)."""
        return self.model(z, self.times(t, z.shape[1]), **condition)

    def at(
        self, function: Callable[..., Array], where: Array | None, x0: Array, z: Array, t: Array
    ) -> Array:
        """As of `diffusion.model.PositionModel`; the function is given times (B, L)."""
        return at_positions(self.model, function, where, x0, z, self.times(t, z.shape[1]))


@dataclass(frozen=True)
class ARDiffusion(EmbeddedProcess):
    """Diffusion of embeddings with a time for each position. Times t (B, 1) are those of the sentence,
    times (B, L) those of its positions.

    embedding: of the tokens, learned or given. schedule: -log SNR by the time of a token, not learned.
    head: "leave_one_out" adds what a token's own vector says to the network's logits, "posterior" leaves
    it to the network. token_steps: T, how many steps of the sentence the first token has noise in; with
    many all tokens move nearly together, with few one after the other. objective: of training, "squares"
    is the published loss, "bound" weighs squares as the bound does. num_steps: K of the bound in K steps
    of the sentence; None, and all training, is in continuous time. self_conditioning: the share of rows
    that is trained with an estimate as second input; 0, a network without one, is published.
    """

    vocab_size: int | None = None
    embedding: LearnedEmbeddings | GivenEmbeddings = LearnedEmbeddings()
    schedule: LogSNR = SqrtLogSNR()
    head: Head = "leave_one_out"
    token_steps: int = 2000
    objective: Literal["squares", "bound"] = "squares"
    num_steps: int | None = None
    self_conditioning: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_num_steps(self, self.num_steps)
        if self.token_steps < 2:
            raise ValueError(
                f"ARDiffusion.token_steps = {self.token_steps} must be at least 2, from clean to noise"
            )
        if self.objective not in OBJECTIVES:
            raise ValueError(
                f"ARDiffusion.objective = {self.objective!r} is not one of {', '.join(OBJECTIVES)}"
            )
        if self.schedule.learned:
            raise ValueError(
                f"ARDiffusion.schedule = {type(self.schedule).__name__} is learned by a bound, and the "
                "published loss is none; take SqrtLogSNR or LinearLogSNR"
            )

    @property
    def traits(self) -> Traits:
        """`Objective.traits`: times depend on the place in a row, and training has its own loss."""
        return replace(super().traits, whole_rows=True, own_loss=True)

    def in_steps(self, num_steps: int | None) -> Self:
        check_num_steps(self, num_steps)
        changed = copy.copy(self)  # with the embeddings that are bound
        vars(changed)["num_steps"] = num_steps
        return changed

    def time(self, u: Array) -> Array:
        if self.num_steps is None:
            return u
        return (jnp.ceil(u * (self.num_steps - 1)) + 1) / self.num_steps

    @property
    def first_time(self) -> float:
        """0, or the time of the last call of a sampler in K steps."""
        return 0.0 if self.num_steps is None else 1 / self.num_steps

    def times(self, t: Array, length: int) -> Array:
        """tau, (B, L): the own time of each position at the time t (B, 1) of the sentence; times that
        are of positions already, (B, L), as they are."""
        if t.shape[1] == length:
            return t  # also of one token, which is the sentence
        place = jnp.arange(length, dtype=t.dtype)[None]
        step = t * (length + self.token_steps - 2)
        anchor = jnp.maximum(length - 1 - step, 0)
        risen = jnp.maximum(step - (length - 1), 0) / (self.token_steps - 1)
        above = place - anchor + (2 * length - place) * risen
        return jnp.maximum(above, 0) / (2 * length - anchor)

    def gamma(self, t: Array, length: int) -> Array:
        return self.schedule.gamma(self.times(t, length))

    def rate(self, t: Array, length: int) -> Array:
        """d gamma / dt of each position, (B, L), by the time t (B, 1) of the sentence."""
        return jax.jvp(lambda t: self.gamma(t, length), (t,), (jnp.ones_like(t),))[1]

    def wrapped(self, model: Model) -> Model:
        """As the interface: the model is told the times of positions."""
        return super().wrapped(PositionTimes(model, self.times))

    def charge(self, t: Array, length: int) -> Array:
        """(B, L) nats of the bound at t (B, 1) for an error of square 1 at each position."""
        gamma = self.gamma(t, length)
        if self.num_steps is None:
            return self.rate(t, length) * jnp.exp(-gamma) / 2
        before = self.gamma(jnp.maximum(t - 1 / self.num_steps, 0), length)
        return (self.num_steps - 1) * jnp.exp(-gamma) * jnp.expm1(gamma - before) / 2

    def squares(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        """|e(x0) - xhat|^2, (B, L)."""
        gap = self.embeddings[x0] - self.mean(self.predict(out, z, t))
        return jnp.sum(gap**2, axis=-1)

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        return self.charge(t, z.shape[1]) * self.squares(out, x0, z, t)

    def loss_of(self, model: Model, x0: Array, z: Array, t: Array) -> Array:
        # What a position is charged depends on its place, which `at_positions` does not tell.
        return self.charge(t, z.shape[1]) * at_positions(model, self.squares, None, x0, z, t)

    def loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        key_state, key_estimate, key_start = split(key, 3)
        z, start = self.corrupt(key_state, x0, u), jnp.zeros_like(u)
        if self.self_conditioning:
            model = self._conditioned(key_estimate, model, z, u, self.gamma(u, x0.shape[1]))
        clean = self.log_likelihood(self.corrupt(key_start, x0, start), start)
        rounding = -gather_last(log_softmax(clean), x0)
        if self.objective == "bound":
            weighted = self.in_steps(None).loss_of(model, x0, z, u)
            return weighted + rounding + self.prior_term(x0, u.dtype)
        squares = at_positions(model, self.squares, None, x0, z, u)
        return squares / self.embeddings.shape[1] + rounding
