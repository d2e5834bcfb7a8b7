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
    RescaledSchedule,
    masked_weight,
    time_of,
)

SCHEDULES = {
    "linear": (Linear(), lambda t: 1 - t),
    "linear_eps": (Linear(1e-3), lambda t: 1 - 0.999 * t),
    "polynomial": (Polynomial(2.5), lambda t: 1 - t**2.5),
    "cosine": (Cosine(), lambda t: 1 - np.sin(np.pi * t / 2)),
    "mdlm_cosine": (MDLMCosine(), lambda t: np.cos(np.pi * t / 2)),
    "mdlm_cosine_eps": (MDLMCosine(1e-3), lambda t: 1e-3 + 0.999 * np.cos(np.pi * t / 2)),
    "geometric": (Geometric(), lambda t: np.exp(-(1e-4 ** (1 - t) * 20.0**t))),
    "squeezed": (RescaledSchedule(Cosine()), lambda t: 0.9998 * (1 - np.sin(np.pi * t / 2)) + 1e-4),
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
    """alpha and 1 - alpha, and their logarithms, the one near 0 among them."""
    schedule = SCHEDULES[name][0]
    t = np.array([1e-6, 1e-4, 0.01, 0.3, 0.5, 0.9, 0.99, 0.9999, 1 - 1e-6, 1 - 2**-24], np.float32)
    for f in (schedule.log_alpha, schedule.log1m_alpha):
        with jax.enable_x64(True):
            exact = np.asarray(f(jnp.asarray(t, jnp.float64)))
        np.testing.assert_allclose(f(jnp.asarray(t)), exact, rtol=5e-5)
        np.testing.assert_allclose(np.exp(f(jnp.asarray(t))), np.exp(exact), rtol=1e-5)


@rows
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_time_of_finds_the_first_time_that_has_the_value(name, dtype):
    """Between neighbouring numbers, and so with all the digits that the value has, at both ends."""
    schedule = SCHEDULES[name][0]
    with jax.enable_x64(dtype == jnp.float64):
        t = jnp.array([1e-15, 1e-9, 1e-6, 0.03, 0.4, 0.99, 0.9999, 1 - 1e-6, 1.0], dtype)
        value = schedule.log1m_alpha(t)
        found = time_of(schedule, value)
        assert (schedule.log1m_alpha(found) >= value).all()
        below = jnp.nextafter(found, jnp.zeros_like(found)) * (1 - 4 * jnp.finfo(dtype).eps)
        assert ((schedule.log1m_alpha(below) <= value) | (found < 1e-37)).all()
        # What a rounding of the value does to the time, and a rounding of the time itself.
        eps = jnp.finfo(dtype).eps
        slack = 8 * eps * (jnp.where(value < 0, -value / masked_weight(schedule, t), 0) + t)
        assert (jnp.abs(found - t) <= slack).all()
        assert time_of(schedule, jnp.zeros(1, dtype)) == 1
        assert time_of(schedule, jnp.full(1, -jnp.inf, dtype)) < 1e-37


def test_time_of_a_geometric_schedule_is_exact_where_almost_all_is_masked():
    """There 1 - alpha is 1 to the rounding of float32: it is alpha that tells the times apart."""
    t = jnp.array([0.98, 0.985, 0.99, 0.995, 0.999])
    np.testing.assert_allclose(time_of(Geometric(), Geometric().log1m_alpha(t)), t, rtol=1e-6)


@pytest.mark.parametrize("schedule", [Linear(), Polynomial(), Cosine(), MDLMCosine()])
def test_ends_are_exact(schedule):
    ends = jnp.array([0.0, 1.0])
    alpha, masked = jnp.exp(schedule.log_alpha(ends)), jnp.exp(schedule.log1m_alpha(ends))
    assert alpha[1] == 0 and masked[0] == 0  # the zeros are exact, so no boundary term is hidden
    np.testing.assert_allclose([alpha[0], masked[1]], 1, atol=2e-7)


@pytest.mark.parametrize(
    "make",
    [lambda: Linear(1.0), lambda: Linear(-1.0), lambda: Polynomial(0.0), lambda: Geometric(2.0, 1.0),
     lambda: RescaledSchedule(Linear(), 0.5), lambda: MDLMCosine(1.0)],
)  # fmt: skip
def test_impossible_settings_are_rejected(make):
    with pytest.raises(ValueError):
        make()
