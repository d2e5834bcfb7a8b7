"""Linear flow matching on the simplex: the baseline of Dirichlet flow matching (arXiv 2402.05841).

z_t = t w + (1 - t) e_x0 with w uniform on the simplex: straight lines from noise to the vertex. The
network classifies x0, trained by cross-entropy; dz/dt = -sum_i p(x0 = i | z_t) (e_i - z_t) / t.

q(z_t | x0) is constant where z_t[x0] >= 1 - t, and 0 elsewhere: the exact classifier jumps, and with
many tokens only one remains possible long before t = 0, which is the failure that the Dirichlet path
avoids. There is no likelihood bound: where the network holds p_k > z_k, the ODE run back from data takes
z_k to 0 and out of the simplex, where the prior has no mass.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.numerics import gather_last
from diffusion.process import FlowProcess
from diffusion.random import log_exponential
from diffusion.simplex import SimplexProcess


@dataclass(frozen=True)
class LinearFlow(SimplexProcess, FlowProcess):
    """Linear flow matching."""

    vocab_size: int | None = None
    head: ClassVar[str] = "posterior"

    def __post_init__(self):
        self.check_size()

    def prior(self, key: Array, shape: tuple[int, int]) -> Array:
        return jax.nn.softmax(log_exponential(key, (*shape, self.num_tokens)))

    def corrupt(self, key: Array, x0: Array, t: Array) -> Array:
        t = t[..., None]
        noise = log_exponential(key, (*x0.shape, self.num_tokens), t.dtype)
        return t * jax.nn.softmax(noise) + (1 - t) * self.space.pure(x0, t.dtype)

    def log_likelihood(self, z: Array, t: Array) -> Array:
        """0 or -inf: q(z | x0 = v) is constant where z_v >= 1 - t."""
        rounding = 4 * jnp.finfo(z.dtype).eps
        return jnp.where(z >= (1 - t)[..., None] - rounding, 0.0, -jnp.inf)

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        return -gather_last(self.predict(out, z, t), x0)

    def bridge(self, key: Array, x0: Array, z: Array, t: Array, s: Array) -> Array:
        """The point at s of the line from z at t to the vertex: no noise is added."""
        return self._line(self.space.pure(x0, z.dtype), z, t, s)

    def velocity(self, log_p0: Array, z: Array, t: Array) -> Array:
        return (z - jnp.exp(log_p0)) / t[..., None]

    def flow(self, log_p0: Array, z: Array, t: Array, s: Array) -> Array:
        """z at s on the line to the mean of the vertices, (B, L, V)."""
        return self._line(jnp.exp(log_p0), z, t, s)

    def _line(self, end, z, t, s):
        kept, moved = (s / t)[..., None], ((t - s) / t)[..., None]
        return kept * z + moved * end
