"""What changes between two times that are close, in float32 against extended precision.

A million steps of size 1e-6: alpha(s) - alpha(t) by subtraction has no correct digit there.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_schedules import AlphaOnly

from diffusion import kernels
from diffusion.betas import ReciprocalBetas
from diffusion.bfn import BFN, PowerAccuracy, gains
from diffusion.chains import interpolation
from diffusion.d3pm import D3PM
from diffusion.dirichlet import DirichletFlow
from diffusion.genmd4 import GenMD4
from diffusion.kernels import Absorbing, Uniform
from diffusion.linear_flow import LinearFlow
from diffusion.mdlm import MDLM
from diffusion.process import MAX_STEPS
from diffusion.schedules import (
    Cosine,
    Geometric,
    Linear,
    MDLMCosine,
    Polynomial,
    RescaledSchedule,
)
from diffusion.spindle import Spindle
from samplers.remask import revealing

STEPS = (10, 100, 1000, 10_000, 100_000, 1_000_000)
CLOSE = 1e-5  # relative: of a logarithm of 25 the rounding of float32 is 2e-6
PI = np.arccos(np.longdouble(-1))


def linear(t, eps=0.0):
    return eps + (1 - eps) * (1 - t), (1 - eps) * t


def cosine(t):
    return 2 * np.sin(PI / 4 * (1 - t)) ** 2, np.sin(PI / 2 * t)


def mdlm_cosine(t, eps):
    return eps + (1 - eps) * np.sin(PI / 2 * (1 - t)), 2 * (1 - eps) * np.sin(PI / 4 * t) ** 2


def geometric(t):
    sigma = np.longdouble(1e-4) ** (1 - t) * 20**t
    return np.exp(-sigma), -np.expm1(-sigma)


def squeezed(t, eps):
    return tuple((1 - 2 * eps) * x + eps for x in cosine(t))


SCHEDULES = {  # and alpha, 1 - alpha in extended precision, to full relative precision
    "linear": (Linear(), linear),
    "linear_eps": (Linear(1e-3), lambda t: linear(t, np.longdouble(1e-3))),
    "polynomial": (Polynomial(2.5), lambda t: (1 - t**2.5, t**2.5)),
    "root": (Polynomial(0.5), lambda t: ((1 - t) / (1 + t**0.5), t**0.5)),
    "cosine": (Cosine(), cosine),
    "mdlm_cosine": (MDLMCosine(), lambda t: mdlm_cosine(t, 0)),
    "mdlm_cosine_eps": (MDLMCosine(1e-3), lambda t: mdlm_cosine(t, np.longdouble(1e-3))),
    "geometric": (Geometric(), geometric),
    "squeezed": (RescaledSchedule(Cosine()), lambda t: squeezed(t, np.longdouble(1e-4))),
}
schedules = pytest.mark.parametrize("name", SCHEDULES)


def fall(formula, t, s):
    """alpha(s) - alpha(t), of the smaller of the two numbers."""
    (alpha_t, masked_t), (alpha_s, masked_s) = formula(t), formula(s)
    return np.where(alpha_s < 0.5, alpha_s - alpha_t, masked_t - masked_s)


def wide(x):
    return np.asarray(x).astype(np.longdouble)


def grid(T):
    """(k, t, s) of 100 of the steps k = 1..T, the first and the last among them, some more than once
    where T is small; times in extended precision."""
    k = np.r_[1:34, T - 32 : T + 1, np.linspace(1, T, 34).astype(int)].clip(1, T)
    return k, k / np.longdouble(T), (k - 1) / np.longdouble(T)


def float32_steps(T):
    """Times of a grid of T steps as a sampler has them, (n, 1) float32, and what these numbers are."""
    _, t, s = grid(T)
    t, s = (x.astype(np.float32)[:, None] for x in (t, s))
    return jnp.asarray(t), jnp.asarray(s), wide(t), wide(s)


@schedules
@pytest.mark.parametrize("T", STEPS)
def test_fall_of_alpha_in_a_step(name, T):
    schedule, formula = SCHEDULES[name]
    t, s, t_, s_ = float32_steps(T)
    exact = fall(formula, t_, s_)
    np.testing.assert_allclose(np.exp(wide(schedule.log_drop(t, s))), exact, rtol=CLOSE)
    assert np.isneginf(schedule.log_drop(t, t)).all()


@schedules
def test_fall_of_alpha_of_a_schedule_without_a_formula_for_it(name):
    """In float64, in which the tables are made, nearly as good as the closed form."""
    schedule, formula = AlphaOnly(name), SCHEDULES[name][1]
    for T in STEPS:
        _, t, s = grid(T)
        with jax.enable_x64(True):
            drop = schedule.log_drop(*(jnp.asarray(x, jnp.float64) for x in (t, s)))
            np.testing.assert_allclose(np.exp(wide(drop)), fall(formula, t, s), rtol=1e-7)


@schedules
@pytest.mark.parametrize("T", STEPS)
def test_weights_of_the_masked_process_on_a_grid(name, T):
    schedule, formula = SCHEDULES[name]
    process, (k, t, s) = MDLM(2, schedule, num_steps=T), grid(T)

    @jax.jit
    def weight(u):
        x0, z = jnp.zeros(u.shape, int), jnp.full(u.shape, 2)
        return process.token_loss(jnp.zeros((*u.shape, 2)), x0, z, process.time(u))

    got = wide(weight(jnp.asarray((k - 0.5) / T, jnp.float32)[:, None]))[:, 0] / np.log(2)
    np.testing.assert_allclose(got, T * fall(formula, t, s) / formula(t)[1], rtol=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine", "mdlm_cosine_eps", "geometric"])
def test_bound_of_many_steps_is_not_biased(name):
    """All of 1e5 steps, each with its share of masks, for a network that says the same everywhere: the
    bound is alpha(0) - alpha(1), times its nats."""
    (schedule, formula), T = SCHEDULES[name], 100_000
    process, k = MDLM(2, schedule, num_steps=T), np.arange(1, T + 1)
    t = jnp.asarray(k / T, jnp.float32)[None]
    x0 = jnp.zeros(t.shape, int)
    loss = jax.jit(process.token_loss)(jnp.zeros((*t.shape, 2)), x0, x0 + 2, t)[0]
    bound = (wide(loss) * formula(k / np.longdouble(T))[1]).mean() / np.log(2)
    np.testing.assert_allclose(bound, fall(formula, wide(1.0), wide(0.0)), rtol=1e-6)


@schedules
@pytest.mark.parametrize("kernel", [Absorbing(), Uniform()], ids=lambda k: type(k).__name__)
def test_chance_to_move_in_a_step(name, kernel):
    schedule, formula = SCHEDULES[name]
    chain = interpolation(kernel, 3, schedule)
    for T in STEPS:
        t, s, t_, s_ = float32_steps(T)
        moved = np.exp(wide(chain.step(t, s).log_move))
        np.testing.assert_allclose(moved, fall(formula, t_, s_) / formula(s_)[0], rtol=CLOSE)


@schedules
@pytest.mark.parametrize("T", STEPS)
def test_chance_of_a_reveal(name, T, monkeypatch):
    """Of the reverse step, of the draw of a bridge, and of ReMDM where it remasks nothing."""
    schedule, formula = SCHEDULES[name]
    process = MDLM(2, schedule)
    t, s, t_, s_ = float32_steps(T)
    exact = fall(formula, t_, s_) / formula(t_)[1]
    z, x0 = jnp.full(t.shape, 2), jnp.ones(t.shape, int)
    log_p0 = jnp.log(jnp.full((*t.shape, 2), 0.5))
    step = np.exp(wide(process.log_posterior(log_p0, z, t, s)))
    np.testing.assert_allclose(step[..., :2].sum(-1), exact, rtol=CLOSE)

    kept, masked = np.exp(schedule.log_alpha(t)), np.exp(schedule.log1m_alpha(s))
    reveal = revealing(kept, masked, np.exp(schedule.log_drop(t, s)), 0.0)
    np.testing.assert_allclose(wide(reveal), exact, rtol=CLOSE)

    def revealed(threshold):
        monkeypatch.setattr(kernels, "uniform", lambda *_: jnp.asarray(threshold, jnp.float32))
        return np.asarray(process.bridge(jax.random.key(0), x0, z, t, s) != 2)

    assert revealed(exact * (1 - CLOSE)).all()
    assert not revealed(exact * (1 + CLOSE))[exact < 1].any()


@pytest.mark.parametrize("name", ["linear", "polynomial", "root", "cosine", "mdlm_cosine"])
def test_last_step_reveals_all(name):
    """However the numbers round: what is left masked at t = 0 would stay in the sample."""
    process = MDLM(1, SCHEDULES[name][0])
    t = jnp.linspace(0.01, 1, 5000)[:, None]
    z, s = jnp.ones(t.shape, int), jnp.zeros_like(t)
    almost_one = lambda *_: jnp.asarray(1 - 2**-24, jnp.float32)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "uniform", almost_one)
        assert (process.bridge(jax.random.key(0), 0 * z, z, t, s) == 0).all()
    assert np.isneginf(process.log_posterior(jnp.zeros((*z.shape, 1)), z, t, s)[..., 1]).all()


def test_several_steps_of_a_chain_of_tables():
    """From k / T to (k - n) / T by differences of tables of float32 numbers."""
    T, n = 100_000, 3
    process = D3PM(2, Absorbing(), ReciprocalBetas(), T)
    k = np.r_[n:99:1, n : T + 1 : 1009, T][:, None]
    step = process.chain.step(
        jnp.asarray(k / T, jnp.float32), jnp.asarray((k - n) / T, jnp.float32)
    )
    # alpha = 1 - k / T
    np.testing.assert_allclose(np.exp(wide(step.log_move)), n / wide(T - k + n), rtol=CLOSE)


@pytest.mark.parametrize("T", STEPS)
def test_steps_of_schedules_of_the_token(T):
    t, s, t_, s_ = float32_steps(T)
    power = GenMD4(2, initial_power=2.5)
    exact = -np.expm1(2.5 * np.log(np.maximum(s_, 1e-300) / t_))
    revealed = -np.expm1(wide(power._log_stay(t, s)))
    np.testing.assert_allclose(revealed[..., 0], exact, rtol=CLOSE)

    spindle = Spindle(2, unigram=(3.0, 1.0))

    def masked(t):
        return t[..., None] + 0.3 * np.sin(np.longdouble(np.pi) * t[..., None]) * spindle.tilt

    revealed = -np.expm1(wide(spindle._log_stay(t, s)))
    exact = (masked(t_) - masked(s_)) / masked(t_)
    np.testing.assert_allclose(revealed, exact, rtol=CLOSE)

    # On its own grid the size of a step is known to more digits than the times have.
    (_, t_, s_), process = grid(T), Spindle(2, num_steps=T, unigram=(3.0, 1.0), head="posterior")
    t, stay = jnp.asarray(t_, jnp.float32)[:, None], masked(s_) / masked(t_)
    x0, out = jnp.zeros(t.shape, int), jnp.log(jnp.full((*t.shape, 2), 0.5))
    loss = wide(jax.jit(process.token_loss)(out, x0, x0 + 2, t))[:, 0]
    mixed = stay.mean(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(stay[:, 0] > 0, stay[:, 0] * np.log(stay[:, 0] / mixed), 0)
    exact = T * ((1 - stay[:, 0]) * np.log(np.longdouble(2)) + excess)
    np.testing.assert_allclose(loss, exact, rtol=2e-5)


@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_accuracy_that_a_flow_gains_in_a_step(power, T):
    schedule = PowerAccuracy(0.7, power)
    t, s, t_, s_ = float32_steps(T)
    exact = 0.7 * ((1 - s_) ** power - (1 - t_) ** power)
    np.testing.assert_allclose(wide(schedule.gained(t, s)), exact, rtol=CLOSE)
    k, t, s = grid(T)
    exact = np.longdouble(0.7) * ((1 - s) ** power - (1 - t) ** power)
    np.testing.assert_allclose(gains(schedule, T)[k], exact, rtol=1e-9)


def test_loss_of_a_flow_of_many_steps_has_the_accuracy_of_its_step(monkeypatch):
    T, seen = 100_000, []
    process = BFN(3, PowerAccuracy(2.0), num_steps=T)
    monkeypatch.setattr(BFN, "step_loss", lambda *a: seen.append(a[5]) or a[5])
    k, t, s = grid(T)
    x0, u = jnp.zeros((len(k), 1), int), jnp.asarray((k - 0.5) / T, jnp.float32)[:, None]
    process.loss(jax.random.key(0), lambda z, t: jnp.zeros((*x0.shape, 3)), x0, u)
    np.testing.assert_allclose(wide(seen[0])[:, 0], 2 * ((1 - s) ** 2 - (1 - t) ** 2), rtol=1e-6)


@pytest.mark.parametrize("T", STEPS)
def test_steps_on_the_simplex(T):
    inner = grid(T)[2] > 0  # at s = 0 all is certain
    t, s, t_, s_ = (x[inner] for x in float32_steps(T))
    gained = DirichletFlow(3, scale=2.0)._gained(t, s)
    np.testing.assert_allclose(wide(gained), 2 * np.log(t_ / s_), rtol=CLOSE)
    z = jnp.broadcast_to(jnp.array([1.0, 0.0]), (*t.shape, 2))
    moved = LinearFlow(2).bridge(None, jnp.ones(t.shape, int), z, t, s)[..., 1]
    np.testing.assert_allclose(wide(moved), (t_ - s_) / t_, rtol=CLOSE)


@pytest.mark.parametrize("make", [MDLM, D3PM, Spindle, BFN])
def test_grids_that_float32_does_not_tell_apart_are_unsupported(make):
    most = MAX_STEPS
    k = np.r_[1:1000, most - 1000 : most + 1, np.linspace(1, most, 1000).astype(int)]
    t = jnp.asarray(k / most, jnp.float32)
    np.testing.assert_array_equal(jnp.round(t * most), k)
    make(3, num_steps=10)
    with pytest.raises(ValueError, match=f"{make.__name__}.num_steps = {most + 1} "):
        make(3, num_steps=most + 1)
