"""Schedules: the formulas in float64, their derivative, precision in float32, exact ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.schedules import (
    Cosine,
    Geometric,
    Linear,
    MDLMCosine,
    Polynomial,
    Squeezed,
    masked_weight,
)  # fmt: skip

SCHEDULES = {
    "linear": (Linear(), lambda t: 1 - t),
    "linear_eps": (Linear(1e-3), lambda t: 1 - 0.999 * t),
    "polynomial": (Polynomial(2.5), lambda t: 1 - t**2.5),
    "cosine": (Cosine(), lambda t: 1 - np.sin(np.pi * t / 2)),
    "mdlm_cosine": (MDLMCosine(), lambda t: np.cos(np.pi * t / 2)),
    "mdlm_cosine_eps": (MDLMCosine(1e-3), lambda t: 1e-3 + 0.999 * np.cos(np.pi * t / 2)),
    "geometric": (Geometric(), lambda t: np.exp(-(1e-4 ** (1 - t) * 20.0**t))),
    "squeezed": (Squeezed(Cosine()), lambda t: 0.9998 * (1 - np.sin(np.pi * t / 2)) + 1e-4),
}
rows = pytest.mark.parametrize("name", SCHEDULES)


@rows
def test_alpha_and_derivative_are_the_formula(name, x64):
    schedule, formula = SCHEDULES[name]
    t = np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(np.exp(schedule.log_alpha(t)), formula(t), rtol=1e-12)
    np.testing.assert_allclose(np.exp(schedule.log1m_alpha(t)), 1 - formula(t), rtol=1e-9)
    slope = jax.vmap(jax.grad(lambda t: jnp.exp(schedule.log_alpha(t))))(jnp.asarray(t))
    np.testing.assert_allclose(schedule.dalpha(jnp.asarray(t)), slope, rtol=1e-9)
    weight = masked_weight(schedule, jnp.asarray(t))
    np.testing.assert_allclose(weight, -np.asarray(slope) / (1 - formula(t)), rtol=1e-9)


@rows
def test_float32_keeps_its_digits_near_both_ends(name):
    schedule = SCHEDULES[name][0]
    for t in np.array([1e-6, 1e-4, 0.01, 0.5, 0.99, 0.9999], np.float32):
        with jax.enable_x64(True):
            exact = [float(f(jnp.float64(t))) for f in (schedule.log_alpha, schedule.log1m_alpha)]
        got = [float(f(jnp.float32(t))) for f in (schedule.log_alpha, schedule.log1m_alpha)]
        np.testing.assert_allclose(got, exact, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("schedule", [Linear(), Polynomial(), Cosine(), MDLMCosine()])
def test_ends_are_exact(schedule):
    ends = jnp.array([0.0, 1.0])
    alpha, masked = jnp.exp(schedule.log_alpha(ends)), jnp.exp(schedule.log1m_alpha(ends))
    assert alpha[1] == 0 and masked[0] == 0  # the zeros are exact, so no boundary term is hidden
    np.testing.assert_allclose([alpha[0], masked[1]], 1, atol=2e-7)


@pytest.mark.parametrize(
    "make",
    [lambda: Linear(1.0), lambda: Linear(-1.0), lambda: Polynomial(0.0), lambda: Geometric(2.0, 1.0),
     lambda: Squeezed(Linear(), 0.5), lambda: MDLMCosine(1.0)],
)  # fmt: skip
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError):
        make()
