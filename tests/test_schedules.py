"""Schedules: the formulas in float64, their derivative, precision in float32, exact ends; and what
follows from alpha alone."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.mdlm import MDLM
from diffusion.schedules import (
    AlphaSchedule,
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
    "root": (Polynomial(0.5), lambda t: 1 - t**0.5),
    "cosine": (Cosine(), lambda t: 1 - jnp.sin(jnp.pi * t / 2)),
    "mdlm_cosine": (MDLMCosine(), lambda t: jnp.cos(jnp.pi * t / 2)),
    "mdlm_cosine_eps": (MDLMCosine(1e-3), lambda t: 1e-3 + 0.999 * jnp.cos(jnp.pi * t / 2)),
    "geometric": (Geometric(), lambda t: jnp.exp(-(1e-4 ** (1 - t) * 20.0**t))),
    "squeezed": (
        RescaledSchedule(Cosine()),
        lambda t: 0.9998 * (1 - jnp.sin(jnp.pi * t / 2)) + 1e-4,
    ),
}
rows = pytest.mark.parametrize("name", SCHEDULES)


@dataclass(frozen=True)
class AlphaOnly(AlphaSchedule):
    """A schedule of SCHEDULES by its formula of alpha alone."""

    name: str

    def alpha(self, t):
        return SCHEDULES[self.name][1](t)


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


TIMES = np.array([1e-12, 1e-9, 1e-6, 1e-4, 0.01, 0.3, 0.5, 0.9, 0.99, 0.999, 0.9999, 1 - 1e-6])


def quantities(schedule, t, s):
    """alpha, 1 - alpha, alpha' and the fall since s, as a jitted program has them."""
    logs = lambda t, s: (schedule.log_alpha(t), schedule.log1m_alpha(t), schedule.log_drop(t, s))  # noqa: E731
    values = [np.exp(np.asarray(log, np.float64)) for log in jax.jit(logs)(t, s)]
    return np.array([*values, jax.jit(schedule.dalpha)(t)], np.float64)


@pytest.mark.representatives("polynomial", "eps", "geometric", "squeezed")
@rows
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_alpha_alone_gives_what_careful_formulas_give(name, dtype):
    """To the accuracy that `AlphaSchedule` states, fall of a step of a millionth of t included."""
    with jax.enable_x64(dtype == jnp.float64):
        t = jnp.asarray(TIMES, dtype)
        accuracy = max(1e-8, float(jnp.finfo(dtype).eps))
        close = np.maximum(80 * accuracy, 2 * accuracy / (1 - np.asarray(t, np.float64)))
        for s in (t * jnp.asarray(1 - 1e-6, dtype), t / 2, jnp.zeros_like(t)):
            careful, derived = (quantities(f, t, s) for f in (SCHEDULES[name][0], AlphaOnly(name)))
            assert (np.abs(derived - careful) <= close * np.abs(careful)).all()


@rows
def test_alpha_alone_has_the_ends_of_its_formula(name):
    """0 exactly where it is 0 but for rounding, also of a sine; equal times are no step."""
    ends = jnp.array([0.0, 1.0])
    for method in ("log_alpha", "log1m_alpha"):
        careful, derived = (getattr(f, method)(ends) for f in (SCHEDULES[name][0], AlphaOnly(name)))
        np.testing.assert_allclose(derived, careful, rtol=1e-5, atol=2e-7)
    assert np.isneginf(AlphaOnly(name).log_drop(ends, ends)).all()
    times = jnp.array([0.03, 0.4, 0.99])
    value = SCHEDULES[name][0].log1m_alpha(times)
    np.testing.assert_allclose(time_of(AlphaOnly(name), value), times, rtol=2e-5)


@rows
def test_gradients_of_what_follows_from_alpha_are_those_of_the_formula(name, x64):
    schedule, t = AlphaOnly(name), jnp.array([1e-6, 0.01, 0.3, 0.6, 0.99])
    for method, share in (("log_alpha", jnp.exp), ("log1m_alpha", lambda log: -jnp.exp(log))):
        log, slope = jax.vmap(jax.value_and_grad(getattr(schedule, method)))(t)
        np.testing.assert_allclose(slope * share(log), schedule.dalpha(t), rtol=1e-6)


def of(alpha):
    return dataclass(frozen=True)(
        type("Own", (AlphaSchedule,), {"alpha": lambda self, t: alpha(t)})
    )


def test_losses_are_finite_where_alpha_does_not_change_yet_or_any_more():
    """No 0 / 0 in the weight, and none in its gradient."""
    process = MDLM(2, of(lambda t: jnp.clip(1.5 - 2 * t, 0, 1))())
    t = jnp.array([[1e-6], [0.1], [0.5], [0.9], [1.0]])

    def loss(out):
        return process.token_loss(out, jnp.zeros((5, 2), int), jnp.array([[2, 0]] * 5), t).sum()

    for value in jax.value_and_grad(loss)(jnp.zeros((5, 2, 2))):
        assert jnp.isfinite(value).all()
    keep = process.corrupt(jax.random.key(0), jnp.zeros((5, 9), int), t)
    assert (keep[:2] == 0).all() and (keep[3:] == 2).all()


@pytest.mark.parametrize(
    "alpha, word",
    [
        (lambda t: t, "from 0 at t = 0 to 1 at t = 1"),
        (lambda t: 1 - t / 2, "from 1 at t = 0 to 0.5"),
        (lambda t: 1 - t + jnp.sin(2 * jnp.pi * t) / 3, "never rise"),
        (lambda t: 2 - 2 * t, "from 2"),
        (lambda t: jnp.log(t), "finite"),
        (lambda t: jnp.mean(1 - t), "finite number for every t"),
        (lambda t: np.cos(np.pi / 2 * np.asarray(t)), "jax.numpy"),
        (lambda t: 1 - t if t < 2 else 0, "jax.numpy"),
    ],
)
def test_an_alpha_that_is_no_schedule_is_rejected_in_one_line(alpha, word):
    with pytest.raises(ValueError, match=r"Own\.alpha") as error:
        of(alpha)()
    assert word in str(error.value) and "\n" not in str(error.value)
