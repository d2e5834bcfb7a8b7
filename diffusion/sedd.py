"""SEDD: score entropy on the absorbing and the uniform graph (Lou et al., arXiv 2310.16834).

With sigma = -log alpha, tokens jump at rate sigma'(t) Q: to the mask at rate 1, or to every other token
at rate 1 / V. For the score s_y = p_t(y) / p_t(z), y being z with one position changed, and
r_y = q(y | x0) / q(z | x0),

    -log p(x0) <= E_t sigma'(t) sum_(y != z) Q(y, z) [s_y - r_y - r_y log(s_y / r_y)] + boundary terms,

formed as in `diffusion.score_entropy`. Heads:

    score           out = log s_y of the V tokens, free as in the paper; on the absorbing graph that of a
                    masked position. `scaled` adds log(alpha / (1 - alpha)) - log V, the published output
                    scaling -log(expm1(sigma)) - log V.
    leave_one_out,  out is a law of x0, from which, c being the leave-one-out law,
    posterior           s_y = (alpha c_y + (1 - alpha) pi_y) / (alpha c_z + (1 - alpha) pi_z).
                    The absorbing graph is then MDLM, term by term, and the uniform graph UDLM.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from diffusion.kernels import Absorbing, Uniform
from diffusion.markov import ContinuousMarkovProcess
from diffusion.numerics import at, minus, normalised, pick
from diffusion.process import Likelihood
from diffusion.schedules import Linear, Schedule
from diffusion.score_entropy import (
    absorbing_entropy,
    excess_of_law,
    excess_of_score,
    uniform_entropy,
)


@dataclass(frozen=True)
class SEDD(ContinuousMarkovProcess):
    """Published with Linear(1e-3), "log-linear", and Geometric(1e-5, 20) noise."""

    vocab_size: int | None = None
    kernel: Absorbing | Uniform = Absorbing()
    schedule: Schedule = Linear(1e-3)
    head: Literal["score", "leave_one_out", "posterior"] = "score"
    scaled: bool = False
    likelihood: ClassVar[Likelihood] = "bound"

    def __post_init__(self):
        self.check_schedule()
        if not isinstance(self.kernel, Absorbing | Uniform):
            raise ValueError(
                f"SEDD.kernel = {type(self.kernel).__name__} has no score entropy here; "
                "use Absorbing or Uniform, or D3PM, which takes any kernel"
            )
        if self.scaled and not (self.head == "score" and isinstance(self.kernel, Absorbing)):
            raise ValueError(
                "SEDD.scaled = True is for the absorbing score alone; set it to False, or take "
                "kernel = Absorbing and head = 'score'"
            )

    def token_loss(self, out, x0, z, t):
        if isinstance(self.kernel, Uniform):
            if self.head == "score":
                excess = excess_of_score(self._log_score(out, z, t), x0, z, self.log_kappa(t))
            else:
                log_c = normalised(self.leave_one_out(out, z, t))
                excess = excess_of_law(log_c, x0, z, self.log_kappa(t))
            return self.rate(t) * uniform_entropy(excess, x0, z, self.log_kappa(t))
        odds, masked = self.log_odds(t), z == self.vocab_size
        if self.head == "score":
            return self.rate(t) * absorbing_entropy(self._log_score(out, z, t), x0, masked, odds)
        # sum_y s_y is the odds whatever the law is, and the entropy is -odds log c(x0).
        loss = -self.rate(t) * jnp.exp(odds) * pick(normalised(out), x0)
        return jnp.where(masked, loss, 0)

    def predict(self, out, z, t):
        if self.head != "score":
            return super().predict(out, z, t)
        return normalised(self.leave_one_out(out, z, t) + self.log_likelihood(z, t))

    def leave_one_out(self, out, z, t):
        if self.head != "score":
            return super().leave_one_out(out, z, t)
        if isinstance(self.kernel, Absorbing):
            return normalised(out)
        # alpha c_y + (1 - alpha) / V = s_y / sum s. A learned score may ask for c_y < 0: nearly 0 then.
        p = jnp.exp(normalised(self._log_score(out, z, t)))
        moved = jnp.exp(self.schedule.log1m_alpha(t))[..., None] / self.vocab_size
        return jnp.log(jnp.maximum(p - moved, 1e-6 * p))

    def log_ratio(self, out, z, t):
        """As the interface; on the absorbing graph -inf for leaving a revealed token."""
        if self.head != "score":
            ratio = super().log_ratio(out, z, t)
        else:
            ratio = self._log_score(out, z, t)
        if isinstance(self.kernel, Uniform):
            return ratio
        masked = jnp.concatenate(
            [ratio[..., : self.vocab_size], jnp.zeros_like(ratio[..., :1])], axis=-1
        )
        return jnp.where((z == self.vocab_size)[..., None], masked, at(z, self.num_states))

    def score_of(self, log_p0, z, t):
        """What a head that holds the score would put out, of which `predict` makes log_p0, (B, L, V)."""
        if isinstance(self.kernel, Uniform):
            log_c = normalised(minus(log_p0, self.log_likelihood(z, t)))
            log_p = self.chain.log_mix(log_c, t)
            return log_p - pick(log_p, z)[..., None]
        return log_p0 + (jnp.log(self.vocab_size) if self.scaled else self.log_odds(t)[..., None])

    def log_tweedie(self, out, z, t, s):
        """log of (exp(-dsigma Q) score)_y exp(dsigma Q)[z, y], dsigma from s to t: (B, L, S), up to a
        constant per position; -inf where it is not positive, and for the mask at s = 0."""
        score = jnp.exp(self.log_ratio(out, z, t))
        moved = jnp.exp(self.chain.step(t, s).log_move)[..., None]
        total = score.sum(-1, keepdims=True)
        if isinstance(self.kernel, Uniform):
            back = score - moved * total / self.vocab_size
        else:
            is_mask = jnp.arange(self.num_states)[None, None] == self.vocab_size
            back = score - jnp.where(is_mask, moved * total, 0)
            back = jnp.where(is_mask & (s == 0)[..., None], 0, back)
        possible = back > 0
        log_back = jnp.where(possible, jnp.log(jnp.where(possible, back, 1)), -jnp.inf)
        return log_back + self.chain.log_step(z, t, s)

    def _log_score(self, out, z, t):
        """log s_y of the V tokens, (B, L, V); on the uniform graph 0 at y = z."""
        if isinstance(self.kernel, Uniform):
            return jnp.where(jnp.isneginf(at(z, self.vocab_size)), out, 0)
        if not self.scaled:
            return out
        return out + (self.log_odds(t) - jnp.log(self.vocab_size))[..., None]
