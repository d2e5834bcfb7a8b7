"""DiffusionBERT's spindle schedule: informative tokens are masked first (He et al., arXiv 2211.15029).

    alpha_v(t) = 1 - t - strength sin(pi t) Htilde_v,  in [0, 1]      Htilde_v = 1 - Hbar / H_v

with H_v = -log p(v) under the unigram distribution. In the paper Hbar is the mean of H over the sequence
at hand. Then alpha depends on all of x0, which the reverse process does not know; here Hbar is the mean
over the corpus, the entropy of the unigram distribution, so that alpha depends on the token alone and
Bayes' rule can be followed: posterior="exact", a bound.

posterior="published" is the official code: in place of H the share of the largest log frequency,
f_v = log(count_v + 1) / max log(count + 1), less its mean over the sequence at hand,

    alpha^i(t) = 1 - t + strength sin(pi t) (f^i - mean f),  in [0, 0.999],

and a bridge whose one-step factor forgets the spindle, beta_k = 1 / (T - k + 1). That is not
q(z_s | z_t, x0), and its weight is computed from the very token that is to be guessed: the sum is no
bound on anything and is labelled an estimate. The published perplexity of 63.78 on LM1B is of this kind.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Self

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.markov import Head
from diffusion.numerics import gather_last, log_softmax
from diffusion.process import Kind, check_num_steps
from diffusion.random import uniform
from diffusion.token_masking import TokenMasking


@dataclass(frozen=True)
class Spindle(TokenMasking):
    """Masked diffusion under the spindle schedule.

    strength: lambda, by how much informative tokens are masked earlier; 0 is the linear schedule.
    num_steps: T; None is continuous time, for posterior="exact". unigram: how often each token occurs;
    None takes the training data's. posterior: "exact" is a bound; "published", the official code, an
    estimate.
    """

    vocab_size: int | None = None
    strength: float = 0.3  # lambda
    num_steps: int | None = None
    unigram: tuple[float, ...] | None = field(default=None, repr=False)
    posterior: Literal["exact", "published"] = "exact"
    head: Head = "leave_one_out"

    def __post_init__(self):
        check_num_steps(self, self.num_steps)
        if self.posterior == "published" and self.num_steps is None:
            raise ValueError(
                "Spindle.posterior = 'published' is defined on a grid; set num_steps (published: 2048)"
            )
        if self.unigram is not None and self.vocab_size not in (None, len(self.unigram)):
            raise ValueError(
                f"Spindle.unigram has {len(self.unigram)} entries, the data {self.vocab_size} tokens"
            )
        if self.strength < 0:
            raise ValueError(f"Spindle.strength = {self.strength} must not be negative")

    @property
    def likelihood(self) -> Kind:
        """A bound for the exact posterior, an estimate for the published one."""
        return "bound" if self.posterior == "exact" else "estimate"

    def in_steps(self, num_steps: int | None) -> Self:
        return replace(self, num_steps=num_steps)

    @cached_property
    def tilt(self) -> np.ndarray:
        """Htilde_v, (V,); a token that never occurs counts as half an occurrence."""
        counts = np.maximum(np.array(self.unigram, np.float64), 0.5)
        p = counts / counts.sum()
        entropy = -np.log(p)
        return 1 - (p * entropy).sum() / entropy

    @cached_property
    def frequency(self) -> np.ndarray:
        """f_v of the official code, (V,)."""
        logs = np.log1p(np.array(self.unigram, np.float64))
        return logs / logs.max()

    def log_masked(self, t: Array) -> Array:
        return jnp.log(jnp.clip(self._masked(t), 0, 1))

    def _log_stay(self, t, s, elapsed=None):
        elapsed = t - s if elapsed is None else elapsed
        now, then = self._masked(t), self._masked(s)
        # sin(pi t) - sin(pi s) as a product, its cosine as a sine of what t + s lacks of 1.
        sines = 2 * jnp.sin(jnp.pi / 2 * ((1 - t) - s)) * jnp.sin(jnp.pi / 2 * elapsed)
        revealed = jnp.broadcast_to(elapsed, t.shape)[..., None]
        revealed = revealed + self._bend * sines[..., None] * self._tilt(t)
        close = (now <= 1) & (then > now / 2) & (then <= 1)
        share = jnp.where(close, revealed / jnp.where(close, now, 1), 0)
        return jnp.where(close, jnp.log1p(-share), super()._log_stay(t, s))

    def weight(self, t: Array) -> Array:
        masked = self._masked(t)
        slope = 1 + self._bend * jnp.pi * jnp.cos(jnp.pi * t)[..., None] * self._tilt(t)
        inside = (masked > 0) & (masked < 1)
        return jnp.where(inside, slope / jnp.where(inside, masked, 1), 0)

    def corrupt(self, key: Array, x0: Array, t: Array) -> Array:
        if self.posterior == "exact":
            return super().corrupt(key, x0, t)
        masked = uniform(key, x0.shape, t.dtype) >= self.published_keep(x0, t)
        return jnp.where(masked, self.num_tokens, x0)

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        if self.posterior == "exact":
            return super().token_loss(out, x0, z, t)
        reveal = self.published_reveal(x0, t)
        loss = -self._grid * reveal * gather_last(log_softmax(out), x0)
        return jnp.where(z == self.num_tokens, loss, 0)

    def published_keep(self, x0: Array, t: Array) -> Array:
        """alpha^i(t), (B, L), of the official code."""
        return 1 - self._published_masked(x0, t)

    def _published_masked(self, x0, t):
        f = jnp.asarray(self.frequency, t.dtype)[x0]
        masked = t - self.strength * jnp.sin(jnp.pi * t) * (f - f.mean(-1, keepdims=True))
        return jnp.where(t <= 0, 0.0, jnp.clip(masked, 0.001, 1))

    def published_reveal(self, x0: Array, t: Array) -> Array:
        """(B, L): how likely the official posterior is to reveal a mask, going from t to t - 1 / T."""
        T = self._grid
        k = jnp.round(t * T)
        masked = self._published_masked(x0, (k - 1) / T)
        keep = (1 - masked) / (T - k + 1)
        return keep / (keep + masked)

    @property
    def _grid(self) -> int:
        """T; posterior="published" has one (`__post_init__`)."""
        assert self.num_steps is not None
        return self.num_steps

    @property
    def _bend(self) -> float:
        return self.strength if self.posterior == "exact" else 0.0

    def _masked(self, t):
        """1 - alpha_v(t) before it is cut to [0, 1]; the plain schedule for posterior="published"."""
        sine = jnp.sin(jnp.pi * jnp.minimum(t, 1 - t))  # exactly 0 at t = 1
        return t[..., None] + self._bend * sine[..., None] * self._tilt(t)

    def _tilt(self, t):
        return jnp.asarray(self.tilt, t.dtype).reshape((1,) * t.ndim + (-1,))
