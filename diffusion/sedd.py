"""SEDD: score entropy on the absorbing and the uniform graph (Lou et al., arXiv 2310.16834).

With sigma = -log alpha, tokens jump at rate sigma'(t) Q: to the mask at rate 1, or to every other token
v at rate pi_v, which is 1 / V on the uniform graph. For the score s_y = p_t(y) / p_t(z), y being z with
one position changed, and r_y = q(y | x0) / q(z | x0),

    -log p(x0) <= E_t sigma'(t) sum_(y != z) Q(y, z) [s_y - r_y - r_y log(s_y / r_y)] + boundary terms,

formed as in `diffusion.score_entropy`. Heads:

    score           out = log s_y of the V tokens, free as in the paper; on the absorbing graph that of a
                    masked position. `scaled` adds log(alpha / (1 - alpha)) - log V, the published output
                    scaling -log(expm1(sigma)) - log V. Where noise is not uniform, log pi_y / pi_z is
                    added, the score of pure noise: out = 0 says that nothing is known.
    leave_one_out,  out is a distribution of x0, from which, c being the leave-one-out distribution,
    posterior           s_y = (alpha c_y + (1 - alpha) pi_y) / (alpha c_z + (1 - alpha) pi_z).
                    The absorbing graph is then MDLM, term by term, and the others UDLM.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp
from jax import Array

from diffusion.kernels import Absorbing, Redrawing
from diffusion.markov import ContinuousMarkovProcess
from diffusion.numerics import gather_last, log_divide, log_one_hot, log_softmax
from diffusion.process import Kind, ScoreProcess
from diffusion.schedules import Linear, Schedule
from diffusion.score_entropy import (
    Redrawn,
    absorbing_entropy,
    excess_of_distribution,
    excess_of_score,
    redrawn,
    redrawn_entropy,
)


class _Graph(ABC):
    """What SEDD needs of one kernel; shapes and arguments are those of `Process`."""

    def __init__(self, process: "SEDD"):
        self.process = process

    @abstractmethod
    def log_score(self, out: Array, z: Array, t: Array) -> Array:
        """log s_y of the V tokens, (B, L, V), of a network that holds the score."""

    @abstractmethod
    def entropy_of_score(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        """(B, L): the sum over y of a network that holds the score, to be weighted by the rate."""

    @abstractmethod
    def entropy_of_p0(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        """(B, L): the same of a network that holds a distribution of x0."""

    @abstractmethod
    def leave_one_out(self, out: Array, z: Array, t: Array) -> Array:
        """log p(x0^i | z_t without z_t^i), (B, L, V), of a network that holds the score."""

    @abstractmethod
    def invert_predict(self, log_p0: Array, z: Array, t: Array) -> Array:
        """What a network that holds the score would have to put out."""

    @abstractmethod
    def all_states(self, log_ratio: Array, z: Array) -> Array:
        """(B, L, S): the ratios of all states from those of the tokens."""

    @abstractmethod
    def undo(self, score: Array, moved: Array, last: Array) -> Array:
        """exp(-dsigma Q) score, (B, L, S), the noise of one step undone, which moves the share
        `moved` = 1 - exp(-dsigma) of the tokens, (B, 1, 1); last: whether the step ends at t = 0."""


class _AbsorbingGraph(_Graph):
    def log_score(self, out: Array, z: Array, t: Array) -> Array:
        process = self.process
        if not process.scaled:
            return out
        return out + (process.log_odds(t) - jnp.log(process.num_tokens))[..., None]

    def entropy_of_score(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        masked, odds = z == self.process.num_tokens, self.process.log_odds(t)
        return absorbing_entropy(self.log_score(out, z, t), x0, masked, odds)

    def entropy_of_p0(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        # sum_y s_y is the odds whatever the distribution is, and the entropy is -odds log c(x0).
        entropy = -jnp.exp(self.process.log_odds(t)) * gather_last(log_softmax(out), x0)
        return jnp.where(z == self.process.num_tokens, entropy, 0)

    def leave_one_out(self, out: Array, z: Array, t: Array) -> Array:
        return log_softmax(out)

    def invert_predict(self, log_p0: Array, z: Array, t: Array) -> Array:
        process = self.process
        scaled = jnp.log(process.num_tokens) if process.scaled else process.log_odds(t)[..., None]
        return log_p0 + scaled

    def all_states(self, log_ratio: Array, z: Array) -> Array:
        """-inf for leaving a revealed token."""
        V = self.process.num_tokens
        masked = jnp.concatenate([log_ratio[..., :V], jnp.zeros_like(log_ratio[..., :1])], axis=-1)
        return jnp.where((z == V)[..., None], masked, log_one_hot(z, V + 1))

    def undo(self, score: Array, moved: Array, last: Array) -> Array:
        V, total = self.process.num_tokens, score.sum(-1, keepdims=True)
        is_mask = jnp.arange(V + 1)[None, None] == V
        return jnp.where(is_mask, jnp.where(last, 0, score - moved * total), score)


class _RedrawingGraph(_Graph):
    """Of a `Redrawing` kernel."""

    def __init__(self, process: "SEDD", kernel: Redrawing):
        super().__init__(process)
        self.kernel = kernel

    def log_score(self, out: Array, z: Array, t: Array) -> Array:
        """0 at y = z; out is beside log pi_y / pi_z, the score of pure noise."""
        log_s = out + self._log_prior_score(z, out)
        return jnp.where(jnp.isneginf(log_one_hot(z, self.process.num_tokens)), log_s, 0)

    def entropy_of_score(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        noise = self._noise(t)
        excess = excess_of_score(self.log_score(out, z, t), x0, z, noise)
        return redrawn_entropy(excess, x0, z, noise)

    def entropy_of_p0(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        noise, log_c = self._noise(t), log_softmax(self.process.leave_one_out(out, z, t))
        return redrawn_entropy(excess_of_distribution(log_c, x0, z, noise), x0, z, noise)

    def leave_one_out(self, out: Array, z: Array, t: Array) -> Array:
        # alpha c_y + (1 - alpha) pi_y = s_y / sum s. A learned score may ask for c_y < 0: nearly 0 then.
        p = jnp.exp(log_softmax(self.log_score(out, z, t)))
        moved = jnp.exp(self.process.schedule.log1m_alpha(t)[..., None] + self._log_pi(t))
        return jnp.log(jnp.maximum(p - moved, 1e-6 * p))

    def invert_predict(self, log_p0: Array, z: Array, t: Array) -> Array:
        log_c = log_softmax(log_divide(log_p0, self.process.log_likelihood(z, t)))
        log_p = self.process.chain.log_mix(log_c, t)
        return log_p - gather_last(log_p, z)[..., None] - self._log_prior_score(z, log_p)

    def all_states(self, log_ratio: Array, z: Array) -> Array:
        return log_ratio

    def undo(self, score: Array, moved: Array, last: Array) -> Array:
        return score - moved * score.sum(-1, keepdims=True) * jnp.exp(self._log_pi(score))

    def _noise(self, t: Array) -> Redrawn:
        return redrawn(self.process.log_odds(t), self.kernel.log_pi(self.process.num_tokens))

    def _log_prior_score(self, z: Array, like: Array) -> Array:
        log_pi = jnp.broadcast_to(self._log_pi(like), like.shape)
        return log_pi - gather_last(log_pi, z)[..., None]

    def _log_pi(self, like: Array) -> Array:
        return self.kernel.log_pi(self.process.num_tokens).astype(like.dtype)[None, None]


@dataclass(frozen=True)
class SEDD(ContinuousMarkovProcess, ScoreProcess):
    """Score entropy on the graph of a kernel.

    kernel: Absorbing, Uniform, Unigram or Stationary (`diffusion.stationary`). schedule: published are
    Linear(1e-3), "log-linear", and Geometric(1e-5, 20). head: what the network puts out, as above.
    scaled: whether the published scaling is added to an absorbing score.
    """

    vocab_size: int | None = None
    kernel: Absorbing | Redrawing = Absorbing()
    schedule: Schedule = Linear(1e-3)
    head: Literal["score", "leave_one_out", "posterior"] = "score"
    scaled: bool = False
    likelihood: ClassVar[Kind] = "bound"

    def __post_init__(self):
        if not isinstance(self.kernel, Absorbing | Redrawing):
            raise ValueError(
                f"SEDD.kernel = {type(self.kernel).__name__} has no score entropy here; "
                "use Absorbing, Uniform, Unigram or Stationary, or D3PM, which takes any kernel"
            )
        self.check_noise()
        if self.scaled and not (self.head == "score" and self.kernel.masks):
            raise ValueError(
                "SEDD.scaled = True is for the absorbing score alone; set it to False, or use "
                "kernel = Absorbing and head = 'score'"
            )

    @property
    def token_logits(self) -> bool:
        """Whether `out` is logits of tokens, and no score."""
        return self.head != "score"

    @property
    def _graph(self) -> _Graph:
        if isinstance(self.kernel, Redrawing):
            return _RedrawingGraph(self, self.kernel)
        return _AbsorbingGraph(self)

    def counted(self, z: Array) -> Array | None:
        return z == self.num_tokens if self.kernel.masks else None

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        graph = self._graph
        entropy = graph.entropy_of_score if self.head == "score" else graph.entropy_of_p0
        return self.rate(t) * entropy(out, x0, z, t)

    def predict(self, out: Array, z: Array, t: Array) -> Array:
        if self.head != "score":
            return super().predict(out, z, t)
        return log_softmax(self.leave_one_out(out, z, t) + self.log_likelihood(z, t))

    def leave_one_out(self, out: Array, z: Array, t: Array) -> Array:
        if self.head != "score":
            return super().leave_one_out(out, z, t)
        return self._graph.leave_one_out(out, z, t)

    def invert_predict(self, log_p0: Array, z: Array, t: Array) -> Array:
        if self.head != "score":
            return super().invert_predict(log_p0, z, t)
        return self._graph.invert_predict(log_p0, z, t)

    def log_ratio(self, out: Array, z: Array, t: Array) -> Array:
        """As the interface; on the absorbing graph -inf for leaving a revealed token."""
        of_tokens = super().log_ratio if self.head != "score" else self._graph.log_score
        return self._graph.all_states(of_tokens(out, z, t), z)

    def log_tweedie(self, out: Array, z: Array, t: Array, s: Array) -> Array:
        """log of (exp(-dsigma Q) score)_y exp(dsigma Q)[z, y], dsigma from s to t: (B, L, S), up to a
        constant per position; -inf where it is not positive, and for the mask at s = 0."""
        score = jnp.exp(self.log_ratio(out, z, t))
        moved = jnp.exp(self.chain.step(t, s).log_move)[..., None]
        back = self._graph.undo(score, moved, (s == 0)[..., None])
        possible = back > 0
        log_back = jnp.where(possible, jnp.log(jnp.where(possible, back, 1)), -jnp.inf)
        return log_back + self.chain.log_step(z, t, s)
