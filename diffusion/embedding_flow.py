"""Flows on embeddings, trained by cross entropy: LangFlow (arXiv 2604.11748) and FLM (2602.16813).

The process is that of `diffusion.gaussian`. The network names a distribution p of each token, and

    loss = E_u[-log p(x0 | z_u)],    u uniform in (0, 1): times where the schedule puts them.

At every t it is least at p(x0 | z_t), the exact denoiser, so its minimum is that of the bound, which
weighs times and errors otherwise. The embeddings of LangFlow are learned with the network; those of FLM
are one-hot vectors, and the network reads V numbers a position. What differs is which noise is
trained:

    LangFlow   gamma is Gumbel distributed: loc - scale log(-log u), u = clip + (1 - 2 clip) t
    FLM        the largest entry of z_t is that of x0 as often as a mask would leave it: with
               probability 1 - t beside chance, P(argmax z_t = x0) = (1 - t) + t / V

up to the ends. Euler steps of FLM's velocity along z_c = (1 - c) eps + c onehot(x0), and the "lerp" of
LangFlow's sampler, are the exact step of a fixed estimate (DDIM), `samplers.ode`.

The papers have no proved bound. LangFlow's is the change of variables along its ODE; with
self-conditioning the published code takes the divergence with the first pass held fixed, but the ODE
that it follows moves with that pass, so its value is neither the likelihood of the sampler nor a bound.
The bound here is that of `diffusion.gaussian`. It holds for any estimate that is a function of z_t, and
both passes together are one.

Otherwise than published: LangFlow fits loc and scale while it trains, here they are settings (the
defaults are what it ended with, for 768 numbers a token); FLM may weigh times by a learned curve; our
network is told t, not gamma, and its states have variance 1 at all times.
"""

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.duo import kept_by_argmax
from diffusion.embedded import OwnLoss
from diffusion.gaussian import GivenEmbeddings, LearnedEmbeddings, OneHot
from diffusion.log_snr import LARGEST, LogSNR
from diffusion.markov import Head
from diffusion.model import Model
from diffusion.numerics import gather_last, in_float64


@dataclass(frozen=True)
class GumbelLogSNR(LogSNR):
    """gamma = loc - scale log(-log u), u = clip + (1 - 2 clip) t: quantiles of a Gumbel distribution.

    loc: its mode. With rows of norm sqrt(D), that of a smaller D is lower by the log of the ratio.
    scale: its width. clip: how much of it is left out at each end.
    """

    loc: float = 4.723
    scale: float = 0.852
    clip: float = 1e-5

    def __post_init__(self):
        if not (self.scale > 0 and 0 < self.clip < 0.5):
            raise ValueError(
                f"GumbelLogSNR.scale = {self.scale} must be positive, and clip = {self.clip} between 0 "
                "and 1/2"
            )
        super().__post_init__()

    def gamma(self, t: Array) -> Array:
        # log u with 1 - u as it is near t = 1, where u itself is rounded.
        rest = self.clip + (1 - 2 * self.clip) * (1 - t)
        return self.loc - self.scale * jnp.log(-jnp.log1p(-rest))

    def time(self, gamma: Array) -> Array:
        rest = -jnp.expm1(-jnp.exp((self.loc - gamma) / self.scale))
        return jnp.clip(1 - (rest - self.clip) / (1 - 2 * self.clip), 0, 1)


@dataclass(frozen=True)
class ArgmaxLogSNR(LogSNR):
    """gamma of one-hot vectors of norm sqrt(V) at which argmax z_t is x0 with the probability
    T + (1 - T) / V, where T falls evenly from 1 - eps at t = 0 to eps at t = 1.

    vocab_size: V, filled in by the process. eps: what is left out at each end; at t = 1 more, where
    -log SNR would leave what float32 can tell. Between 400 values of gamma, t is interpolated.
    """

    vocab_size: int | None = None
    eps: float = 1e-3

    def __post_init__(self):
        if not 0 < self.eps < 0.5:
            raise ValueError(f"ArgmaxLogSNR.eps = {self.eps} is outside (0, 1/2)")
        if self.vocab_size is not None:
            super().__post_init__()

    def gamma(self, t: Array) -> Array:
        times, gammas = self._table(t.dtype)
        return jnp.interp(t, times, gammas)

    def time(self, gamma: Array) -> Array:
        times, gammas = self._table(gamma.dtype)
        return jnp.interp(gamma, gammas, times)

    def _table(self, dtype):
        if self.vocab_size is None:
            raise ValueError("ArgmaxLogSNR.vocab_size is filled in by the process; give it")
        return (jnp.asarray(column, dtype) for column in _clock(self.vocab_size, self.eps))


@functools.lru_cache
def argmax_log_snr(vocab_size: int | None, eps: float) -> "ArgmaxLogSNR":
    """The schedule, made and checked once: `FLM` asks for it at each use."""
    return ArgmaxLogSNR(vocab_size, eps)


@functools.lru_cache
def _clock(vocab_size, eps):
    """(t, gamma), 400 each and rising, of `ArgmaxLogSNR`."""
    shift = math.log(vocab_size)
    gamma = np.linspace(-8, min(18.0, LARGEST - shift), 1001)
    kept, moved = in_float64(lambda g: jnp.stack(kept_by_argmax(g, vocab_size)), gamma)
    inside = np.flatnonzero((moved >= eps) & (kept >= eps))
    gamma = np.linspace(gamma[inside[0]], gamma[inside[-1]], 400)
    moved = in_float64(lambda g: kept_by_argmax(g, vocab_size)[1], gamma)
    return (moved - moved[0]) / (moved[-1] - moved[0]), gamma + shift


class CrossEntropyFlow(OwnLoss):
    """What the two have in common: the loss."""

    def loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        return -gather_last(self.predicted(key, model, x0, u), x0)


@dataclass(frozen=True)
class LangFlow(CrossEntropyFlow):
    """Learned embeddings, trained by cross entropy at Gumbel distributed noise.

    embedding: of the tokens, learned or given. schedule: -log SNR by time, not learned. head:
    "leave_one_out" adds what z says of its own token to the network's logits, as published, "posterior"
    leaves it to the network. self_conditioning: the share of rows that is trained with an estimate as
    second input; 0 is a network without one.
    """

    vocab_size: int | None = None
    embedding: LearnedEmbeddings | GivenEmbeddings = LearnedEmbeddings(768)
    schedule: LogSNR = GumbelLogSNR()
    head: Head = "leave_one_out"
    self_conditioning: float = 0.25


@dataclass(frozen=True)
class FLM(CrossEntropyFlow):
    """One-hot vectors, trained by cross entropy at times of even decodability.

    head: "posterior", as published, or "leave_one_out", which adds what z says of its own token.
    self_conditioning: the share of rows that is trained with an estimate as second input; 0, a network
    without one, is published. eps: the share of tokens that are decoded wrongly at t = 0, beside chance,
    and rightly at t = 1.
    """

    vocab_size: int | None = None
    head: Head = "posterior"
    self_conditioning: float = 0.0
    eps: float = 1e-3
    embedding: ClassVar[OneHot] = OneHot()

    @property
    def schedule(self) -> ArgmaxLogSNR:
        """That of the vocabulary."""
        return argmax_log_snr(self.vocab_size, self.eps)
