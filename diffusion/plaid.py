"""Plaid: likelihood-based diffusion on learned embeddings (Gulrajani and Hashimoto, arXiv 2305.18619).

The process and its bound are those of `diffusion.gaussian`, with embeddings of width 16 that are learned
with the model, a learned schedule between learned ends, and the output prior. In training a row of the
batch is spent on one term of the bound, those with u < share on the reconstruction at t = 0, and the
others on the diffusion at times spread over (0, 1):

    loss = prior + { reconstruction / share,  diffusion / (1 - share) },

in the mean the bound. Self-conditioning: the network reads [z, xhat'], where xhat' is its own estimate
from the same z, 0 when that is made; a share of the rows is trained so, without a gradient into the
first pass, and all others with 0. A bound and a sampler always make both passes: together they are one
deeper network of z, so the bound holds.

The published rows of E have norm 1, ours norm sqrt(D), and with -log SNR higher by log D that is the
same process: z over its own size, which the published network reads, is our state. Its ends begin at -3
and 6, ours at -0.2 and 8.8. Its share follows the running deviations of the two terms, its output prior
is turned on over the first 5000 steps; not here.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.embedded import EmbeddedProcess
from diffusion.gaussian import GivenEmbeddings, LearnedEmbeddings
from diffusion.log_snr import LearnedLogSNR, LogSNR
from diffusion.markov import Head
from diffusion.model import Model
from diffusion.numerics import gather_last
from diffusion.random import split


@dataclass(frozen=True)
class Plaid(EmbeddedProcess):
    """Diffusion of embeddings, each ingredient a setting.

    embedding: of the tokens, learned or given. schedule: -log SNR by time. head: "leave_one_out" is the
    output prior, "posterior" a network that has to read its own position. self_conditioning: the share
    of rows that is trained with an estimate as second input; 0 is a network without one.
    reconstruction_share: that of the rows that is spent on the reconstruction. told: what the network is
    told of the time, t ("time") or -log SNR ("log_snr").
    """

    vocab_size: int | None = None
    embedding: LearnedEmbeddings | GivenEmbeddings = LearnedEmbeddings()
    schedule: LogSNR = LearnedLogSNR()
    head: Head = "leave_one_out"
    self_conditioning: float = 0.25
    reconstruction_share: float = 0.125
    told: Literal["time", "log_snr"] = "time"

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.reconstruction_share < 1:
            raise ValueError(
                f"Plaid.reconstruction_share = {self.reconstruction_share} is outside (0, 1); both "
                "terms need rows"
            )

    def wrapped(self, model: Model) -> Model:
        """As the interface: told what `told` says, with both passes of self-conditioning."""
        return super().wrapped(self._telling(model) if self.told == "log_snr" else model)

    def _telling(self, model):
        def told(z, t, **condition):
            gamma = jax.lax.stop_gradient(self.schedule.gamma(t))
            return model(z, gamma, **condition)

        return told

    def loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        share = self.reconstruction_share
        key_state, key_estimate = split(key)
        at_start = u < share
        t = jnp.where(at_start, 0, (u - share) / (1 - share))
        gamma, rate, finish = self.schedule.in_training(t)
        z = self.corrupt_to(key_state, x0, gamma)
        if self.self_conditioning:
            model = self._conditioned(key_estimate, model, z, t, gamma)
        log_p0 = self.predict_at(model(z, t), z, gamma)
        diffusion = finish(rate * self.error(log_p0, x0, gamma)) / (1 - share)
        reconstruction = -gather_last(log_p0, x0) / share
        return jnp.where(at_start, reconstruction, diffusion) + self.prior_term(x0, u.dtype)
