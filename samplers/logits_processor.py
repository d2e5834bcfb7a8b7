"""What is done to the model's distribution of a token before one is drawn, as users of language models
know it.

All of it acts on log p(x0 | z_t) per position, in this order: banned tokens, repetition, temperature,
then the cuts, each of the distribution that the one before left: top_k, top_p, min_p, eta. The most
probable token is never cut. Anything but the identity samples from another model than the one whose
bound is reported.

Samplers that rank positions by what the model is sure of (`Unmask`, `PathPlanning`, `ReMDM` by
confidence) draw a token from this distribution, but rank by the one before temperature: at temperature 0
every token drawn has probability 1, and nothing is left to rank by. `RankBy` says what cuts do there.
"""

import functools
from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.numerics import log_one_hot, log_softmax, tilt
from diffusion.process import Process

RankBy = Literal["model", "cut"]
"""What positions are ranked by: the model's distribution without the banned tokens and with repetition
(LLaDA, Fast-dLLM), or that after top_k, top_p, min_p and eta as well (Dream). Never with temperature."""

_ROUNDING = 1e-6  # of sums of probabilities, and of logarithms, that are compared with a setting


@dataclass(frozen=True)
class LogitsProcessor:
    """The identity by default; call it on log_p0 (B, L, V).

    temperature: log p is divided by it; 0 takes the most probable token, and so does what is too small
    for differences of log p to be told from rounding. top_k: keeps the k most probable. top_p: keeps the
    fewest of the most probable that have at least this mass together, with the one that crosses the
    line. Of equally probable tokens the first comes first, in all three. min_p: drops what is less
    probable than this share of the most probable one. eta: drops what is less probable than min(eta,
    sqrt(eta) exp(-entropy)) (arXiv 2210.15191). None leaves a cut out. repetition: is taken from log p
    for every time that the token stands at another position of the state (on the simplex: its expected
    number). banned: numbers of tokens that are never drawn.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    eta: float | None = None
    repetition: float = 0.0
    banned: tuple[int, ...] = ()

    def __post_init__(self):
        if not self.temperature >= 0:
            raise ValueError(
                f"LogitsProcessor.temperature = {self.temperature} must not be negative"
            )
        if self.repetition != self.repetition:
            raise ValueError("LogitsProcessor.repetition = nan is not a number")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"LogitsProcessor.top_k = {self.top_k} must be at least 1, or None")
        for name in ("top_p", "min_p", "eta"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(
                    f"LogitsProcessor.{name} = {value} is outside (0, 1]; None leaves it out"
                )
        if any(v < 0 for v in self.banned):
            raise ValueError(
                f"LogitsProcessor.banned = {self.banned} are numbers of tokens, from 0 on"
            )

    @property
    def is_identity(self) -> bool:
        """Whether it leaves every distribution as it is."""
        return self == LogitsProcessor()

    def ranking(self, rank_by: RankBy) -> "LogitsProcessor":
        """What makes the distribution that positions are ranked by."""
        if rank_by == "cut":
            return replace(self, temperature=1.0)
        return LogitsProcessor(repetition=self.repetition, banned=self.banned)

    def __call__(
        self, log_p0: Array, weights: Array | None = None, counts: Array | None = None
    ) -> Array:
        """log of the new distribution, (B, L, V), normalised. For repetition: weights (B, L, V), how
        much of each token stands at each position (`StateSpace.weights`), or counts, how often each
        stands elsewhere, of the same shape or (B, 1, V)."""
        if self.is_identity:
            return log_p0
        size, log_p = log_p0.shape[-1], log_p0
        if self.banned:
            left = jnp.where(self._banned(size), -jnp.inf, log_p)
            # A position that is certain already (a known token) stays what it is.
            log_p = jnp.where(jnp.isneginf(left).all(-1, keepdims=True), log_p, left)
        if self.repetition:
            if counts is None:
                if weights is None:
                    raise ValueError("LogitsProcessor.repetition asks for weights, or counts")
                counts = weights.sum(1, keepdims=True) - weights
            log_p = log_p + tilt(counts, -self.repetition, ~jnp.isneginf(log_p))
        if self.temperature <= float(jnp.finfo(log_p.dtype).eps):
            return log_one_hot(jnp.argmax(log_p, axis=-1), size)
        if self.temperature != 1:
            # The quotient may be beyond all numbers; what is subtracted before it is not.
            log_p = (log_p - log_p.max(-1, keepdims=True)) / min(self.temperature, 1e30)
        log_p = log_softmax(log_p)
        if self.top_k is not None and self.top_k < size:
            falling, order = jax.lax.top_k(log_p, self.top_k)
            log_p = _up_to(log_p, falling[..., -1:], order[..., -1:])
        if self.top_p is not None and self.top_p < 1:
            log_p = _up_to(log_p, *_crossing(log_p, self.top_p))
        if self.min_p is not None:
            log_p = _from(log_p, log_p.max(-1, keepdims=True) + jnp.log(self.min_p))
        if self.eta is not None:
            p = jnp.exp(log_p)
            entropy = -jnp.sum(jnp.where(p > 0, p * log_p, 0), axis=-1, keepdims=True)
            least = jnp.minimum(jnp.log(self.eta), jnp.log(self.eta) / 2 - entropy)
            log_p = _from(log_p, least)
        return log_p

    def without_banned(self, z: Array, process: Process) -> Array:
        """A start z without banned tokens: masked, where a process has a mask and starts with tokens."""
        if not self.banned or process.space.mask is None:
            return z
        size = process.num_tokens
        return jnp.where(self._banned(size + 1)[z], size, z)

    def _banned(self, size: int) -> Array:
        return jnp.zeros(size, bool).at[jnp.asarray(self.banned)].set(True)


def _crossing(log_p: Array, mass: float) -> tuple[Array, Array]:
    """log p and index, each (B, L, 1), of the token with which the most probable have this mass."""
    falling, order = jax.lax.sort((-log_p, _index(log_p)), num_keys=1)  # stable
    p = jnp.exp(-falling)
    before = jnp.cumsum(p, axis=-1) - p  # the mass of what is more probable
    kept = jnp.sum(before < mass * (1 - _ROUNDING), axis=-1, keepdims=True)
    last = jnp.maximum(kept - 1, 0)
    at_last = functools.partial(jnp.take_along_axis, indices=last, axis=-1)
    return at_last(-falling), at_last(order)


def _up_to(log_p: Array, least: Array, last: Array) -> Array:
    """The distribution of what is more probable than `least`, and of what is as probable up to index
    `last`."""
    index = _index(log_p)
    kept = (log_p > least) | ((log_p >= least) & (index < last)) | (index == last)
    return log_softmax(jnp.where(kept, log_p, -jnp.inf))


def _from(log_p: Array, least: Array) -> Array:
    """The distribution of what is at least so probable, or the most probable."""
    least = jnp.minimum(least - _ROUNDING, log_p.max(-1, keepdims=True))
    return log_softmax(jnp.where(log_p >= least, log_p, -jnp.inf))


def _index(log_p: Array) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, log_p.shape, log_p.ndim - 1)
