"""Diffusion of one vector against a normal distribution, whose exact denoiser is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.gaussian import alpha_at, sigma_at
from diffusion.log_snr import CosineLogSNR, LearnedLogSNR, NoiseRescaled
from diffusion.vector_diffusion import VectorDiffusion

DIFFUSION = VectorDiffusion()
MEAN = np.array([0.5, -1.0])
COVARIANCE = np.array([[1.0, 0.6], [0.6, 0.8]])
SLOPE = np.array([[0.3, -0.5], [0.0, 1.0]])  # of what is given
ROWS, STEPS = 10_000, 100


def denoiser(given):
    """v of the exact E[x | z, c] of x ~ N(mean + slope c, covariance), c (B, 2)."""
    mean = MEAN[None] + given @ SLOPE.T  # (N, 2)

    def denoise(z, t):
        gamma = DIFFUSION.schedule.gamma(t)
        a, b = alpha_at(gamma), sigma_at(gamma)  # one for all rows
        of_z = a[0, 0] ** 2 * COVARIANCE + b[0, 0] ** 2 * jnp.eye(2)
        gain = a[0, 0] * jnp.linalg.solve(of_z, COVARIANCE)
        x = mean + (z - a * mean) @ gain
        return (a * z - x) / b

    return denoise


@pytest.fixture(scope="module")
def sampled():
    """Samples (N, 2) for a tilt w of log p(x), log p(a | x) = w.x, of what is given, one program."""

    @jax.jit
    def sample(key, given, tilts, strength):
        def log_p(x):
            return strength * (x @ tilts.sum(0))

        denoise = denoiser(jnp.broadcast_to(given[None], (ROWS, 2)))
        return DIFFUSION.sample(key, denoise, (ROWS, 2), STEPS, log_p)

    return lambda given, tilts, strength=1.0: np.asarray(
        sample(jax.random.key(0), jnp.array(given), jnp.array(tilts), strength)
    )


# What so many steps leave of the covariance is seen once for all, and is not noise.
BIAS, ERROR = 0.03, 4 / np.sqrt(ROWS)


@pytest.mark.parametrize(
    ("given", "strength"), [((0.0, 0.0), 0.0), ((1.0, -2.0), 0.0), ((1.0, -2.0), 1.5)]
)
def test_samples_of_the_exact_denoiser_have_the_exact_distribution(sampled, given, strength):
    """That of N(m, C) given c; of log p(a | x) = w.x, and sums of such, N(m + strength C sum w, C)."""
    tilts = [[0.4, 0.0], [-0.2, 0.5]]
    x = sampled(given, tilts, strength)
    mean = MEAN + SLOPE @ np.array(given) + strength * COVARIANCE @ np.sum(tilts, axis=0)
    np.testing.assert_allclose(x.mean(0), mean, atol=BIAS / 2 + ERROR)
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, atol=BIAS + 2 * ERROR)


def test_the_loss_is_least_at_the_exact_denoiser():
    key = jax.random.key(1)
    given = jnp.zeros((4000, 2))
    x = jnp.array(np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, 4000))
    t, exact = jnp.full((4000, 1), 0.5), denoiser(given)
    losses = [
        DIFFUSION.loss(key, lambda z, t, s=s: (1 + s) * exact(z, t) + s, x, t).mean()
        for s in (-0.2, 0.0, 0.2)
    ]
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_the_cosine_schedule_ends_at_its_limits_and_knows_its_times():
    schedule = NoiseRescaled(CosineLogSNR(12.0), 3.0)
    t = jnp.linspace(0, 1, 11)[:, None]
    gamma = schedule.gamma(t)
    shift = 2 * np.log(3)
    np.testing.assert_allclose(
        gamma[jnp.array([0, 5, 10]), 0], [shift - 12, shift, shift + 12], atol=1e-4
    )
    np.testing.assert_allclose(schedule.time(gamma), t, atol=1e-5)
    rates = (schedule.gamma(t + 0.01) - schedule.gamma(t - 0.01)) / 0.02
    np.testing.assert_allclose(schedule.rate(t)[2:9], rates[2:9], rtol=5e-3)
    with pytest.raises(ValueError, match=r"VectorDiffusion.schedule = LearnedLogSNR is learned"):
        VectorDiffusion(LearnedLogSNR())
    with pytest.raises(ValueError, match=r"CosineLogSNR.limit = 0"):
        CosineLogSNR(0.0)
