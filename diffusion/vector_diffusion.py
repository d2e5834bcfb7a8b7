"""Diffusion of one vector x (D,) that has about unit variance, given whatever its denoiser is given.

    z_t = alpha x + sigma eps,    alpha^2 = sigmoid(-gamma(t)),    sigma^2 = sigmoid(gamma(t))

The denoiser says v, from which xhat = alpha z - sigma v (arXiv 2202.00512), and is trained on

    loss = sigmoid(gamma) sigmoid(-gamma) |v - vhat|^2 / D,    v = alpha eps - sigma x,

the error of eps with the weight sigmoid(gamma), as in DGLM; whatever the weight, it is least at
xhat = E[x | z_t]. Schedules shifted by 2 log 3 (`NoiseRescaled`) see more noise: a vector of many
numbers is told apart at more of it than each number is.

Sampling goes back by q(z_s | z_t, xhat) (`diffusion.gaussian.step_back`), whose limit in small steps is
the distribution of x. Guidance by log p(a | x) of clean vectors, with strength w,

    xhat + w sigma^2 / alpha d log p(a | xhat(z)) / dz,

adds to the score what the label changes of it, where p(a | z) is taken at xhat(z). For normal x and
log p linear in x that is exact: samples have the distribution p(x) p(a | x)^w, normalised.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import alpha_at, sigma_at, step_back
from diffusion.log_snr import CosineLogSNR, LogSNR, NoiseRescaled
from diffusion.random import fold_in, normal, split

Denoise = Callable[[Array, Array], Array]
"""denoise(z (B, D), t (B, 1)) -> v (B, D)."""
LogAttribute = Callable[[Array], Array]
"""log p(attribute | x), (B,), of clean vectors x (B, D), up to a constant."""


@dataclass(frozen=True)
class VectorDiffusion:
    """schedule: -log SNR by time, one that is not learned."""

    schedule: LogSNR = NoiseRescaled(CosineLogSNR(), 3.0)

    def __post_init__(self):
        if self.schedule.learned:
            raise ValueError(
                f"VectorDiffusion.schedule = {type(self.schedule).__name__} is learned, but the loss "
                "teaches it nothing; take CosineLogSNR, LinearLogSNR or another"
            )

    def loss(self, key: Array, denoise: Denoise, x: Array, t: Array) -> Array:
        """(B,), of vectors x (B, D) at times t (B, 1)."""
        gamma, noise = self.schedule.gamma(t), normal(key, x.shape, x.dtype)
        z = alpha_at(gamma) * x + sigma_at(gamma) * noise
        error = alpha_at(gamma) * noise - sigma_at(gamma) * x - denoise(z, t)
        weight = jax.nn.sigmoid(gamma) * jax.nn.sigmoid(-gamma)
        return weight[:, 0] * jnp.mean(error**2, axis=-1)

    def estimate(self, denoise: Denoise, z: Array, t: Array) -> Array:
        """xhat, (B, D)."""
        gamma = self.schedule.gamma(t)
        return alpha_at(gamma) * z - sigma_at(gamma) * denoise(z, t)

    def guided(
        self,
        denoise: Denoise,
        log_p: LogAttribute,
        z: Array,
        t: Array,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> Array:
        """xhat (B, D), with what log_p, times its strength, adds at times within the interval."""
        gamma = self.schedule.gamma(t)

        def told(z):
            x = self.estimate(denoise, z, t)
            return log_p(x).sum(), x

        gradient, x = jax.grad(told, has_aux=True)(z)
        scale = jax.nn.sigmoid(gamma) / alpha_at(gamma)
        inside = (interval[0] <= t) & (t <= interval[1])
        return x + jnp.where(inside, scale * gradient, 0)

    def sample(
        self,
        key: Array,
        denoise: Denoise,
        shape: tuple[int, ...],
        steps: int,
        log_p: LogAttribute | None = None,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> Array:
        """x, float32 of `shape` (B, D), in so many steps of equal length; key: one, or one a row. log_p:
        what guides, its strength within; None for nothing."""
        key_prior, key_steps = split(key)

        def step(z, number):
            t, s = (jnp.full((shape[0], 1), 1 - n / steps) for n in (number, number + 1))
            x = (
                self.estimate(denoise, z, t)
                if log_p is None
                else self.guided(denoise, log_p, z, t, interval)
            )
            now, then = self.schedule.gamma(t), self.schedule.gamma(s)
            return step_back(fold_in(key_steps, number), x, z, now, then), None

        return jax.lax.scan(step, normal(key_prior, shape), jnp.arange(steps))[0]
