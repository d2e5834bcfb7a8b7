"""Students: targets by enumeration, paths beside those of the argmax of Gaussians, bounds."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import OneText, Toy, assert_distribution

from diffusion.distillation import DCD, SDTT
from diffusion.mdlm import MDLM
from diffusion.random import normal
from diffusion.schedules import Cosine, Linear
from diffusion.udlm import UDLM
from samplers.first_hitting import FirstHitting


def runs_of_the_teacher(table, state, reveals):
    """[(probability, target (L, V))] of every run of a teacher from `state` that reveals each mask with
    the probability of its step, and predicts once more after the last one."""
    V, runs = table.size, [(1.0, tuple(state), np.zeros((table.length, table.size)))]
    for reveal in (*reveals, None):
        after = []
        for p, z, target in runs:
            p0, masked = table.p0[table.number(z)], np.array(z) == V
            target = np.where(masked[:, None], p0, target)
            if reveal is None:
                after.append((p, z, target))
                continue
            choices = [range(V + 1) if m else [v] for v, m in zip(z, masked, strict=True)]
            for then in itertools.product(*choices):
                chance = [
                    (1 - reveal if v == V else reveal * p0[i, v]) if masked[i] else 1
                    for i, v in enumerate(then)
                ]
                after.append((p * np.prod(chance), then, target))
        runs = after
    return [(p, target) for p, _, target in runs if p > 0]


@pytest.mark.parametrize(
    "state, settings, reveals",
    [
        ((3, 3, 3), dict(delta=0.2), [0.2 / 0.5]),
        ((3, 3, 3), dict(delta=0.2, legacy_grid=True), [0.2 / 0.55]),  # 0.5 + 0.5 * 0.1
        ((3, 0, 3), dict(delta=0.2, steps=3), [0.2 / 0.5, 0.2 / 0.3]),
        ((3, 0, 3), dict(delta=0.2, steps=3, legacy_grid=True), [0.2 / 0.45, 1.0]),  # then at 0.2
        ((3, 3, 3), dict(delta=0.6), [1.0]),
    ],
)
def test_targets_are_what_the_teacher_said_of_a_token_when_it_was_revealed(
    table, state, settings, reveals
):
    student, rows = SDTT(table.size, **settings), 20_000
    z = jnp.broadcast_to(jnp.array(state), (rows, 3))
    draw = jax.jit(lambda key: student.target(key, table.model, z, jnp.full((rows, 1), 0.5)))
    masked = np.array(state) == table.size
    drawn = np.exp(np.asarray(draw(jax.random.key(0)), np.float64))[:, masked]
    runs = runs_of_the_teacher(table, state, reveals)
    # Its mean is the prediction at `state`, as far as no two tokens are revealed together elsewhere.
    mean = np.sum([p * target for p, target in runs], axis=0)[masked]
    said = table.p0[table.number(state)][masked]
    np.testing.assert_allclose(mean, said, atol=1e-12 if masked.sum() == 2 else 0.03)
    # A target is told by its sum with random weights.
    weights = np.random.default_rng(0).normal(size=drawn.shape[1:])
    told = np.array([(weights * target[masked]).sum() for _, target in runs])
    each, which = np.unique(told.round(6), return_inverse=True)
    expected = np.bincount(which, [p for p, _ in runs])
    sums = (weights * drawn).sum((1, 2))
    nearest = np.abs(sums[:, None] - each[None]).argmin(1)
    assert np.abs(each[nearest] - sums).max() < 1e-5 and (len(each) > 3 or reveals == [1.0])
    assert_distribution(np.bincount(nearest, minlength=len(each)), expected)


def test_the_grid_of_the_teacher_and_that_of_the_released_code():
    right, released = (SDTT(5, delta=8 / 1024, legacy_grid=legacy) for legacy in (False, True))
    for t, legacy in ((0.9, (0.988, 0.088)), (0.5, (0.742, 0.242)), (0.1, (0.176, 0.076))):
        for student, times in ((right, (t, t - 8 / 1024)), (released, legacy)):
            got = [float(student.teacher_time(jnp.full((1, 1), t), k)[0, 0]) for k in (0, 1)]
            np.testing.assert_allclose(got, times, atol=6e-4)


def taught(kind, table, **settings):
    """(student, its exact teacher) on the toy of the table."""
    if kind is SDTT:
        teacher = table.model
    else:
        teacher = table.toy.table(UDLM(table.size))
    return kind(table.size, **settings).taught_by(teacher), teacher


def mean_loss(student, network, rows=4000):
    """The loss at one time, over texts of the toy's frequencies."""
    toy = Toy.named()
    x0 = jnp.asarray(toy.states[np.random.default_rng(0).choice(len(toy.p), rows, p=toy.p)])
    u = jnp.full((rows, 1), 0.4)
    return float(
        jax.jit(lambda key: student.loss(key, OneText(network), x0, u).mean())(jax.random.key(0))
    )


@pytest.mark.parametrize("kind", [SDTT, DCD])
@pytest.mark.parametrize("measure", ["backward", "total_variation"])
def test_the_best_student_of_small_steps_is_the_teacher(kind, measure, table):
    """No loss is negative, and the teacher's own is as small as its steps."""
    losses = {}
    for delta in (0.2, 5e-4):
        student, teacher = taught(kind, table, delta=delta, measure=measure)
        losses[delta] = mean_loss(student, teacher)
    assert losses[0.2] > 0.005 and 0 <= losses[5e-4] < 0.003
    assert mean_loss(student, lambda z, t: 0.5 * teacher(z, t)) > 0.01


@pytest.mark.parametrize(
    "measure, nats",
    [
        ("backward", 0.7 * np.log(0.7 / 0.4) + 0.3 * np.log(0.3 / 0.6)),
        ("forward", 0.4 * np.log(0.4 / 0.7) + 0.6 * np.log(0.6 / 0.3)),
        ("mse", (np.log(0.7 / 0.4) ** 2 + np.log(0.3 / 0.6) ** 2) / 2),
        ("total_variation", 0.3),
    ],
)
def test_a_masked_position_is_compared_with_its_target_and_no_other_is(measure, nats):
    def says(p):
        return lambda z, t: jnp.broadcast_to(jnp.log(jnp.array([p, 1 - p])), (*z.shape, 2))

    student = SDTT(2, measure=measure).taught_by(says(0.4))
    x0 = jnp.zeros((50, 4), int)
    loss = np.asarray(
        student.loss(jax.random.key(0), OneText(says(0.7)), x0, jnp.full((50, 1), 0.5))
    )
    masked = loss != 0
    assert 60 < masked.sum() < 140
    np.testing.assert_allclose(loss[masked], nats, rtol=1e-5)


@pytest.mark.parametrize("kind", [SDTT, DCD])
def test_the_teacher_knows_which_texts_a_row_holds_and_how_much_noise_it_sees(kind):
    seen = []

    def teacher(z, t, segments=None):
        seen.append((t, segments))
        return jnp.zeros((*z.shape, 3))

    segments = jnp.array([[1, 1, 2, 2]])
    network = OneText(lambda z, t: jnp.zeros((*z.shape, 3)), segments)
    student = kind(3, delta=0.25).taught_by(teacher)
    with jax.disable_jit():
        student.loss(jax.random.key(0), network, jnp.zeros((1, 4), int), jnp.full((1, 1), 0.8))
    assert [float(t[0, 0]) for t, _ in seen] == pytest.approx(
        [0.8, 0.55] if kind is SDTT else [0.6]
    )
    assert all(told is segments for _, told in seen)


def alpha_of_argmax(ratio, V):
    """alpha of argmax(a x + b e) with a / b = ratio, by the integral, in numpy."""
    y = np.linspace(-12, 12 + ratio, 200_001)
    cdf = np.exp(np.asarray(jax.scipy.stats.norm.logcdf(y)) * (V - 1))
    density = np.exp(-((y - ratio) ** 2) / 2) / np.sqrt(2 * np.pi)
    return (V * np.trapezoid(density * cdf, y) - 1) / (V - 1)


def test_noise_of_the_argmax_of_gaussians_is_uniform(x64):
    assert alpha_of_argmax(3.0, 50258) == pytest.approx(0.1175, abs=5e-5)
    assert alpha_of_argmax(4.5, 50258) == pytest.approx(0.603, abs=5e-4)


def test_two_times_of_one_path_are_those_of_the_argmax_of_gaussians(x64):
    """A pair (z_s, z_t) is x0 twice, another token twice, or x0 and then another: 2 V - 1 outcomes."""
    V, rows, ratios = 4, 40_000, (2.2, 0.7)
    alpha = [alpha_of_argmax(r, V) for r in ratios]
    noise = np.asarray(normal(jax.random.key(0), (rows, V)))
    gaussian = [(r * np.eye(V)[0] + noise).argmax(1) for r in ratios]
    x0, key = jnp.zeros((rows, 1), int), jax.random.key(1)
    ours = [np.asarray(UDLM(V).corrupt(key, x0, jnp.full((rows, 1), 1 - a)))[:, 0] for a in alpha]
    moved = (1 - np.array(alpha)) * (V - 1) / V  # at s, at t
    expected = np.zeros((V, V))
    expected[0, 0], expected[0, 1:] = 1 - moved[1], (moved[1] - moved[0]) / (V - 1)
    expected[np.arange(1, V), np.arange(1, V)] = moved[0] / (V - 1)
    for then, now in (gaussian, ours):
        counts = np.bincount(V * then + now, minlength=V * V)
        assert_distribution(counts, expected.reshape(-1))
        assert counts[expected.reshape(-1) == 0].sum() == 0


def test_the_teacher_sees_the_path_of_its_student_with_less_noise():
    seen = []

    def teacher(z, t):
        seen.append(np.asarray(z))
        return jnp.zeros((*z.shape, 30))

    x0, u = jnp.zeros((40, 20), int), jnp.full((40, 1), 0.5)
    now = np.asarray(DCD(30, delta=0.3).lesson(jax.random.key(0), teacher, x0, u).z)
    (then,) = seen
    assert (now == then)[then != 0].all() and 0.1 < (now != then).mean() < 0.5


@pytest.mark.parametrize("student, process", [(SDTT, MDLM), (DCD, UDLM)])
def test_the_bound_and_the_samples_of_a_student_are_those_of_its_process(student, process, table):
    toy = table.toy
    network = OneText(lambda z, t: jnp.sin(jnp.stack([z, 2 * z + 1, 5 - z], -1)))
    x0, u = jnp.asarray(toy.states), (jnp.arange(27)[:, None] + 0.5) / 27
    settings = {"schedule": Cosine()}
    ours, plain = (cls(3, **settings) for cls in (student, process))
    keys = jax.random.split(jax.random.key(0), 27)
    got, want = (p.bound_terms(keys, network, x0, u) for p in (ours, plain))
    assert got.keys() == want.keys()
    for term in want:
        np.testing.assert_array_equal(got[term], want[term])
    sampler = FirstHitting()
    assert sampler.compatibility(ours) == sampler.compatibility(plain)


@pytest.mark.parametrize("student, process, other", [(SDTT, MDLM, UDLM), (DCD, UDLM, MDLM)])
def test_a_student_takes_the_noise_of_its_teacher_and_teaches_the_next(student, process, other):
    first = student(delta=0.1).student_of(process(5, Cosine()))
    assert first == student(5, Cosine(), delta=0.1)
    assert student(delta=0.2).student_of(first) == student(5, Cosine(), delta=0.2)
    with pytest.raises(ValueError, match=f"^{student.__name__} learns from {process.__name__}$"):
        student().student_of(other(5, Linear()))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: SDTT(steps=0), "SDTT.steps = 0 must be at least 1"),
        (lambda: SDTT(steps=200, delta=1 / 32), "go further than from t = 1 to 0"),
        (lambda: SDTT(delta=0.0), r"SDTT.delta = 0.0 is outside \(0, 1\]"),
        (lambda: DCD(delta=1.5), r"DCD.delta = 1.5 is outside \(0, 1\]"),
        (
            lambda: replace(DCD(), measure="kl"),
            "DCD.measure = 'kl' is not one of 'backward', 'forward'",
        ),
        (lambda: SDTT(vocab_size=0), "vocab_size = 0 must be at least 1"),
        (lambda: SDTT(3).teacher, "SDTT has no teacher"),
    ],
)
def test_what_cannot_be_is_told(make, words):
    with pytest.raises(ValueError, match=words):
        make()
