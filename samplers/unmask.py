"""Masked tokens revealed in an order of the model's own choosing, without a clock.

Every call draws a token for each masked position; `order` ranks them and `amount` says how many are
kept:

    order     random      by chance; with Tokens(1) this is any-order autoregressive sampling, exact
              confidence  the largest probability of any token first
              drawn       the probability of the token that was drawn (MaskGIT, LLaDA), with `noise`
                          times Gumbel noise on its logarithm, which falls to 0 with the share of masks
              margin      the largest difference between the two most probable tokens
              entropy     the smallest entropy
    amount    Steps(steps, grid)    a share of the masks per call, evenly or by MaskGIT's cosine
              Tokens(num)           as many tokens a call ("top-k reveal")
              Threshold(probability)  all that are at least so sure (Fast-dLLM, arXiv 2505.22618)
              Factor(factor)        the first n while (n + 1) (1 - p_n) is below the factor, p_n the
                                    probability of the n-th (Fast-dLLM)
              EntropyBudget(nats)   as many as keep sum - max of their entropies within the budget, which
                                    bounds what is lost by drawing them apart (EB-Sampler, 2505.24857)

at least one token each. What misses a threshold, a factor or a budget by rounding is within it, and
equal scores are in random order (`samplers.ranking`). Scores are of the distribution before temperature
(`samplers.logits_processor.RankBy`): temperature decides which token is drawn, not where. All but
"random" prefer what the model is sure of: the distribution is another than that of the reverse process,
with less entropy. With the exact denoiser and Tokens(1) only "drawn" does so: the others choose a place
by the state alone, and any such order gives the data. Rows of a batch end each in its own time. A
network that knows time is asked at the t at which as many tokens are masked in the mean.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.model import saying
from diffusion.numerics import gather_last
from diffusion.process import Process
from diffusion.random import split, uniform
from diffusion.schedules import time_of
from samplers.ending import ends, last_known
from samplers.logits_processor import LogitsProcessor, RankBy
from samplers.ranking import TIE, in_order, places
from samplers.sampler import Compatibility, State, Stepwise, masks

Order = Literal["random", "confidence", "drawn", "margin", "entropy"]


def scores(order: Order, log_p: Array, x0: Array) -> tuple[Array, Array, Array]:
    """(score, entropy, log_sure), each (B, L): what positions are ranked by, the largest first; the
    entropy in nats; and log of the largest probability, or of that of x0 (B, L) where the order is by
    what was drawn. log_p (B, L, V): up to a constant per position."""
    top = log_p.max(-1, keepdims=True)
    p = jnp.exp(log_p - top)
    total = p.sum(-1)
    log_total = jnp.log(total)
    entropy = log_total - jnp.sum(jnp.where(p > 0, p * (log_p - top), 0), axis=-1) / total
    log_sure = -log_total
    if order == "drawn":
        log_sure = gather_last(log_p, x0) - top[..., 0] - log_total
    if order == "random":
        return jnp.zeros_like(entropy), entropy, log_sure
    if order == "margin":
        two = jax.lax.top_k(p, min(2, p.shape[-1]))[0]
        return (two[..., 0] - two[..., -1]) / total, entropy, log_sure
    return (-entropy if order == "entropy" else log_sure), entropy, log_sure


def mean_time(process: Process, z: Array) -> Array:
    """(B, 1): the time at which as many positions of z (B, L) are masked in the mean."""
    assert process.masked_schedule is not None  # `samplers.sampler.masks`
    share = (z == process.num_tokens).mean(1, keepdims=True)
    return jnp.where(share > 0, time_of(process.masked_schedule, jnp.log(share)), 0)


class Amount(ABC):
    """How many tokens a call of the network reveals."""

    @abstractmethod
    def calls(self, length: int) -> int:
        """How often the network is called for `length` tokens, at most."""

    @abstractmethod
    def count(
        self, number: Array, masked: Array, first: Array, ranked: tuple[Array, Array]
    ) -> Array:
        """How many to reveal, (B, 1), in call `number` of rows with as many `masked` (B, 1), `first` of
        them at the beginning; ranked: (entropy, log probability) (B, L) of what comes first, in
        order."""


@dataclass(frozen=True)
class Steps(Amount):
    """Reveals all in `steps` calls.

    steps: how many calls, less where the text is shorter. grid: "uniform" reveals evenly; "cosine" few
    at first (MaskGIT, arXiv 2202.04200).
    """

    steps: int = 64
    grid: Literal["uniform", "cosine"] = "uniform"

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"Steps.steps = {self.steps} must be at least 1")

    def calls(self, length):
        return min(self.steps, length)

    def count(self, number, masked, first, ranked):
        share = jnp.minimum((number + 1) / self.steps, 1)
        left = 1 - share if self.grid == "uniform" else jnp.cos(jnp.pi / 2 * share)
        return masked - jnp.floor(first * left + 1e-4)


@dataclass(frozen=True)
class Tokens(Amount):
    """Reveals `num` tokens a call.

    num: how many, at least 1.
    """

    num: int = 1

    def __post_init__(self):
        if self.num < 1:
            raise ValueError(f"Tokens.num = {self.num} must be at least 1")

    def calls(self, length):
        return -(-length // self.num)

    def count(self, number, masked, first, ranked):
        return jnp.full_like(masked, self.num)


@dataclass(frozen=True)
class Threshold(Amount):
    """Reveals all tokens that are sure enough, and one at least (Fast-dLLM, arXiv 2505.22618).

    probability: what sure enough is, above 0.
    """

    probability: float = 0.9

    def __post_init__(self):
        if not 0 < self.probability <= 1:
            raise ValueError(f"Threshold.probability = {self.probability} is outside (0, 1]")

    def calls(self, length):
        return length

    def count(self, number, masked, first, ranked):
        sure = ranked[1] >= jnp.log(self.probability) - TIE
        return jnp.cumprod(sure, axis=1).sum(1, keepdims=True)


@dataclass(frozen=True)
class Factor(Amount):
    """Reveals the surest n tokens, with the largest n for which (n + 1) (1 - p_n) is within the factor,
    p_n being the least probability among them, and one at least (Fast-dLLM, arXiv 2505.22618).

    The more are revealed together, the surer they have to be. Up to a factor of 1, and for the likeliest
    tokens, they are the likeliest together too: of n tokens whose probabilities exceed 1 - e, the joint
    probability exceeds 1 - n e, and that of any other choice is below e.

    factor: above 0.
    """

    factor: float = 1.0

    def __post_init__(self):
        if not self.factor > 0:
            raise ValueError(f"Factor.factor = {self.factor} must be above 0")

    def calls(self, length):
        return length

    def count(self, number, masked, first, ranked):
        together = jnp.arange(1, ranked[1].shape[1] + 1)[None]
        within = -(together + 1) * jnp.expm1(ranked[1]) <= self.factor + TIE
        return jnp.cumprod(within, axis=1).sum(1, keepdims=True)


@dataclass(frozen=True)
class EntropyBudget(Amount):
    """Reveals as many as keep the sum less the largest of their entropies within the budget, and one at
    least (EB-Sampler, arXiv 2505.24857).

    nats: the budget.
    """

    nats: float = 0.5

    def __post_init__(self):
        if not self.nats >= 0:
            raise ValueError(f"EntropyBudget.nats = {self.nats} must not be negative")

    def calls(self, length):
        return length

    def count(self, number, masked, first, ranked):
        entropy = ranked[0]
        lost = jnp.cumsum(entropy, axis=1) - jax.lax.cummax(entropy, axis=1)
        return jnp.cumprod(lost <= self.nats + TIE, axis=1).sum(1, keepdims=True)


class _Start(NamedTuple):
    """What a row began with, each (B, 1): how many masks, and its last known position."""

    masked: Array
    last_known: Array


@dataclass(frozen=True)
class Unmask(Stepwise):
    """See above. `Unmask("drawn", Steps(16, "cosine"), noise=4.5)` is MaskGIT's sampler.

    order: which positions come first. amount: how many are revealed in a call. noise: of order "drawn",
    what Gumbel noise on the logarithm is multiplied by; 0 has none. logits_processor: changes the
    distribution that each token is drawn from. rank_by: the distribution that positions are ranked by
    (`samplers.logits_processor.RankBy`). stop: tokens that end a row (`samplers.ending`), which is
    finished once one is revealed and nothing before it is masked.
    """

    order: Order = "confidence"
    amount: Steps | Tokens | Threshold | Factor | EntropyBudget = Steps()
    noise: float = 0.0
    logits_processor: LogitsProcessor = LogitsProcessor()
    rank_by: RankBy = "model"
    stop: tuple[int, ...] = ()

    def __post_init__(self):
        if not self.noise >= 0 or (self.noise and self.order != "drawn"):
            raise ValueError(
                f"Unmask.noise = {self.noise} must not be negative, and is for order='drawn'"
            )
        sure = isinstance(self.amount, Threshold | Factor)
        if sure and self.order not in ("confidence", "drawn"):
            name = type(self.amount).__name__
            raise ValueError(
                f"Unmask.order = {self.order!r}: a {name} goes with 'confidence' or 'drawn'"
            )

    def compatibility(self, process):
        if not masks(process):
            return Compatibility(
                "unsupported", "needs a masked process with one schedule in continuous time"
            )
        if self.order != "random":
            return Compatibility("approximate", "prefers tokens of high confidence")
        if self.amount == Tokens(1):
            return Compatibility(
                "exact", "one token per call in random order, at the mean time of that many masks"
            )
        return Compatibility("approximate", "several tokens per call, independently of each other")

    @property
    def draws_jointly(self):
        return True

    def calls(self, process, length):
        return self.amount.calls(length)

    def modified(self, process, model):
        return model  # `advance` applies the logits processor, to what is drawn

    def begin(self, key, state, process, known):
        masked = (state.z == process.vocab_size).sum(1, keepdims=True)
        start = _Start(masked, last_known(known, len(state.z)))
        return state._replace(t=mean_time(process, state.z), memory=start)

    def ended(self, state, process):
        masked = state.z == process.vocab_size
        if not self.stop:
            return ~masked.any(1)
        whole = jnp.cumsum(masked, axis=1) == 0  # up to this position
        at_end = ends(state.z, self.stop, state.memory.last_known)
        return ~masked.any(1) | (whole & at_end).any(1)

    def advance(self, key, number, state, process, model, known):
        z, t = state.z, state.t
        key_x0, key_order = split(key)
        masked = z == process.vocab_size
        left = masked.sum(1, keepdims=True)
        out, weights = model(z, t), process.space.weights(z)
        processor = (
            None
            if self.logits_processor.is_identity
            else lambda log_p0: self.logits_processor(log_p0, weights)
        )
        x0 = process.draw(key_x0, saying(model, out), z, t, processor)
        # Up to a constant: to write a normalised distribution of a large V would cost more than the
        # draw.
        distribution = out if process.posterior_head else process.predict(out, z, t)
        distribution = self.logits_processor.ranking(self.rank_by)(distribution, weights)
        score, entropy, log_sure = scores(self.order, distribution, x0)
        u = uniform(key_order, z.shape)
        if self.noise:
            score = score - self.noise * left / state.memory.masked * jnp.log(-jnp.log(u))
        first = in_order(jnp.where(masked, score, -jnp.inf), u)
        ranked = [jnp.take_along_axis(a, first, axis=1) for a in (entropy, log_sure)]
        count = self.amount.count(number, left, state.memory.masked, (ranked[0], ranked[1]))
        z = jnp.where(masked & (places(first) < jnp.maximum(count, 1)), x0, z)
        return State(z, mean_time(process, z), z, state.calls + 1, state.memory)
