"""A process of one's own: masks by alpha = 1 - t^3, and learns by the bound of the masked processes.

ddlm train --config tests/extension/process.py --workdir runs/own-process
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from configs import smoke
from diffusion.kernels import Absorbing
from diffusion.markov import ContinuousMarkovProcess
from diffusion.numerics import gather_last
from diffusion.schedules import Polynomial, Schedule


@dataclass(frozen=True)
class CubicMask(ContinuousMarkovProcess):
    """-log p(x0) <= E_t 3 / t sum of -log p(x0 | z_t) over masked positions."""

    vocab_size: int | None = None
    head: ClassVar[str] = "posterior"
    kernel: ClassVar[Absorbing] = Absorbing()
    schedule: ClassVar[Schedule] = Polynomial(3.0)
    likelihood: ClassVar[str] = "bound"

    def predict(self, out, z, t):
        masked = (z == self.vocab_size)[..., None]
        certain = jnp.where(jax.nn.one_hot(z, self.vocab_size, dtype=bool), 0.0, -jnp.inf)
        return jnp.where(masked, jax.nn.log_softmax(out), certain)

    def token_loss(self, out, x0, z, t):
        nats = -gather_last(jax.nn.log_softmax(out), x0)
        return jnp.where(z == self.vocab_size, 3 / t * nats, 0)


def get_config():
    return replace(smoke.get_config(), process=CubicMask())
