"""Dirichlet flow matching against numbers of the official code and exact ones, in float64.

The official coefficient c comes from a table of its integral, whose errors these tests bound. Where the
official table is put in place of ours, everything else is the same to rounding.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import reference
from scipy.special import beta, betainc

from diffusion import dirichlet
from diffusion.dirichlet import DirichletFlow
from diffusion.dirichlet_coefficient import coefficient_over_x, quadrature
from diffusion.numerics import log_one_hot
from diffusion.simplex import log_state, project
from samplers.guidance import classifier, classifier_free

CELLS, SPACING = 999, 1e-3  # of the official table, in x and in conc
MIX, TILT = 1.5, 0.4  # of the official guidance: of the label; of its absence
TIGHT = {"rtol": 1e-9, "atol": 1e-12}


def cases():
    """(V, the arrays without their prefix) for every alphabet size in the file."""
    a = reference("dirichlet_fm")
    found = [match[1] for key in a if (match := re.fullmatch(r"(K\d+_)alphas", key))]
    assert len(found) > 2
    for prefix in found:
        arrays = {k.removeprefix(prefix): v for k, v in a.items() if k.startswith(prefix)}
        yield arrays["x"].shape[-1], arrays


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def time_of(process, conc, rows):
    """t (B, 1) at which conc(t) is `conc`."""
    return jnp.full((rows, 1), np.exp((1 - conc) / process.scale))


def field(process, p, x, conc):
    """The velocity per unit of conc, (B, L, V), of the probabilities p."""
    t = time_of(process, conc, len(x))
    velocity = process.velocity(jnp.log(jnp.asarray(p)), jnp.asarray(x), t)
    return np.asarray(velocity * t[..., None] / -process.scale)


def weighted(p, c, x):
    """sum_i p_i c_i (e_i - x)."""
    return p * c - x * (p * c).sum(-1, keepdims=True)


def exact(V, x, conc):
    """c by quadrature, 0 at x = 0."""
    return quadrature(np.maximum(x, 1e-290), conc, V) * x


def over(c, x):
    """c / x; at x = 0, where c is 0 and what it multiplies is too, 0."""
    return np.where(x > 0, c / np.where(x > 0, x, 1), 0)


def table_error(V, x, conc):
    """At most what part of c the official one misses, (B, L, V); inf within the first cell of its table.

    It interpolates the slope of I, about x^conc (1 - x)^V, on straight lines between points, takes a
    forward difference in conc, and has the rounding of I over that difference.
    """
    c = exact(V, x, conc)
    slope = c * (1 - x) ** (V - 1) * x ** (conc - 1) / beta(conc, V - 1)
    rounding = 1e-12 / np.maximum(slope, 1e-300)
    error = ((conc + V * x) / np.maximum(x * CELLS, 1)) ** 2 / 4 + 5 * SPACING + rounding
    return np.where(x * CELLS > 1, error, np.inf)


def assert_near_official(ours, official, x, conc, factor=1.0):
    """Fields of p with sum |p| <= `factor`: as near as the table is good, where no state is in its first
    cell; how many states these are."""
    V = x.shape[-1]
    error, c = table_error(V, x, conc), exact(V, x, conc)
    there = np.isfinite(error).all(-1)
    miss = (np.where(np.isfinite(error), error, 0) * c).max(-1)
    assert (np.abs(ours - official).max(-1) <= factor * miss + 1e-12)[there].all()
    return there.sum()


def publish(monkeypatch, c, x, conc):
    """The official coefficients c at the states x in place of ours."""

    def published(z, a, *_):
        np.testing.assert_array_equal(z, x)
        np.testing.assert_allclose(np.broadcast_to(a, (len(x), 1)), conc, rtol=1e-12)
        return jnp.asarray(over(c, x))

    monkeypatch.setattr(dirichlet, "coefficient_over_x", published)


def own(V, x, conc):
    """c by our interpolation, over the range of concentrations of the default process."""
    over_x = jax.jit(coefficient_over_x, static_argnums=(2, 3))
    conc = jnp.full((len(x), 1), conc)
    return x * np.asarray(over_x(jnp.asarray(x), conc, V, DirichletFlow(V)._highest))


def test_coefficient_is_the_exact_one(x64):
    for V, a in cases():
        x, known = a["x"], 0
        for conc, golden in zip(a["alphas"], a["c_exact"], strict=True):
            there, c = np.isfinite(golden), exact(V, x, conc)
            np.testing.assert_allclose(c[there], golden[there], rtol=1e-13, err_msg=f"{V}")
            np.testing.assert_allclose(
                own(V, x, conc)[there], golden[there], rtol=1e-10, err_msg=f"{V}"
            )
            np.testing.assert_allclose(own(V, x, conc), c, rtol=1e-10, err_msg=f"{V}")
            tiny = 1e-9 * x  # below the table of ours, where it takes the limit
            limit = own(V, tiny, conc) / quadrature(tiny, conc, V) / tiny
            np.testing.assert_allclose(limit, 1, rtol=2e-8, err_msg=f"{V}")
            known += there.all()
            # Also where the file has no exact value: the definition, by a central difference.
            low, high = (betainc(conc + step, V - 1, x) for step in (-1e-4, 1e-4))
            slope = (low - high) / 2e-4 * beta(conc, V - 1)
            slope /= (1 - x) ** (V - 1) * x ** (conc - 1)
            np.testing.assert_allclose(c, slope, rtol=1e-6, err_msg=f"{V}")
        assert known


def test_official_coefficient_is_off_within_the_first_cells_of_its_table(x64):
    """Below the first point, 1 / 999, it falls as x^(2 - conc) from its value there, where the exact one
    is about x: the smaller x and the larger conc, the larger it is."""
    for V, a in cases():
        x, points, first = a["x"], np.linspace(0, 1, CELLS + 1), 1 / CELLS
        for conc, official in zip(a["alphas"], a["c_code"], strict=True):
            slope = betainc(conc + SPACING, V - 1, points) - betainc(conc, V - 1, points)
            with np.errstate(divide="ignore", invalid="ignore"):
                table = -np.interp(x, points, slope / SPACING) * beta(conc, V - 1)
                table /= (1 - x) ** (V - 1) * x ** (conc - 1)
            table = np.where((x == 0) | (x == 1), 0, table)
            np.testing.assert_allclose(official, table, rtol=1e-9, err_msg=f"{V}")
            ours, error = own(V, x, conc), table_error(V, x, conc)
            beyond = np.isfinite(error)
            assert (np.abs(official - ours)[beyond] <= (error * ours)[beyond]).all(), V
            within = x[(x < first) & (x > 0)]
            edge = quadrature(np.full((1, 1, 1), first), conc, V)[0, 0, 0] * first
            linear = edge * (within / first) ** (2 - conc) * ((1 - first) / (1 - within)) ** (V - 1)
            np.testing.assert_allclose(official[(x < first) & (x > 0)], linear, rtol=5 * SPACING)


def test_velocity_is_the_exact_field_where_the_coefficient_is_known(x64):
    for V, a in cases():
        x, p, known = a["x"], a["flow_probs"], 0
        for conc, c in zip(a["alphas"], a["c_exact"], strict=True):
            if not np.isfinite(c).all():
                continue
            known += 1
            golden = weighted(p, c, x)
            for process in (DirichletFlow(V), DirichletFlow(V, scale=1.5)):
                slack = {"rtol": 1e-9, "atol": 1e-10 * c.max()}  # c has ten digits
                np.testing.assert_allclose(field(process, p, x, conc), golden, **slack)
                gained = 0.5  # by one step of log z
                t, s = (time_of(process, a, len(x)) for a in (conc, conc + gained))
                moved = process.flow(jnp.log(jnp.asarray(p)), jnp.asarray(x), t, s)
                expected = x * np.exp(gained * over(golden, x))
                expected /= expected.sum(-1, keepdims=True)
                np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-290)
        assert known


@pytest.mark.parametrize("scale", [1.5, 2.0])
def test_fields_by_the_official_coefficient_are_the_official_ones(scale, monkeypatch, x64):
    for V, a in cases():
        process, x = DirichletFlow(V, scale), a["x"]
        for number, conc in enumerate(a["alphas"]):
            publish(monkeypatch, a["c_code"][number], x, conc)
            for golden, p in [
                (a["flow"][number], a["flow_probs"]),
                *((a["cond_flows"][number][..., i], np.exp(log_one_hot(i, V))) for i in range(V)),
            ]:
                p = np.broadcast_to(p, x.shape)
                slack = 1e-12 * np.abs(golden).max()
                np.testing.assert_allclose(field(process, p, x, conc), golden, atol=slack)
            monkeypatch.undo()
            ours = field(process, a["flow_probs"], x, conc)
            assert_near_official(ours, a["flow"][number], x, conc)


def networks(a, number=0):
    """The conditional and the unconditional network of one step, and p of both."""
    both = [a[f"traj_logits_{name}"][number] for name in ("cond", "uncond")]
    return [lambda z, t, out=out: jnp.asarray(out) for out in both], [softmax(o) for o in both]


def direction(process, a, variant, number, x, conc):
    """What moves the state in a step of the official sampler's `variant`, per unit of conc."""
    (label, free), (p, p_free) = networks(a, number)
    if variant == "vfadd":  # adds the two fields, and so may leave the simplex
        return MIX * field(process, p, x, conc) + (1 - MIX) * field(process, p_free, x, conc)
    if variant.startswith("plain"):
        temperature = 0.7 if variant == "plain_temp" else 1
        return field(process, softmax(np.log(p) / temperature), x, conc)
    if variant == "tilt":
        model = classifier_free(process, label, free, 1 - TILT, "log_probability")
    else:
        model = classifier_free(process, label, free, MIX)
    return field(process, np.exp(model(x, None)), x, conc)


@pytest.mark.parametrize("variant", ["plain", "plain_temp", "add", "tilt", "score", "vfadd"])
def test_euler_steps_are_the_official_ones(variant, monkeypatch, x64):
    """Each from the stored state, with the official coefficients at it; and with ours, which go
    another way by no more than the coefficients differ."""
    compared = 0
    for V, a in cases():
        process, grid, states = DirichletFlow(V), a["traj_alpha_grid"], a[f"traj_{variant}_x"]
        np.testing.assert_array_equal(states[0], a["traj_x0"])
        for number, (x, c) in enumerate(zip(states[:-1], a[f"traj_{variant}_c"][:-1], strict=True)):
            conc, step = grid[number], grid[number + 1] - grid[number]
            ours = direction(process, a, variant, number, x, conc)
            publish(monkeypatch, c, x, conc)
            official = direction(process, a, variant, number, x, conc)
            monkeypatch.undo()
            following = project(jnp.asarray(x + step * official))
            np.testing.assert_allclose(following, states[number + 1], err_msg=f"{V}", **TIGHT)
            compared += assert_near_official(ours, official, x, conc, MIX + abs(1 - MIX))
            assert np.abs(states[number + 1] - x).max() > 1e-6
    assert compared


def test_projection_is_the_official_one(x64):
    cut = False
    for V, a in cases():
        p = np.asarray(project(jnp.asarray(a["proj_in"])))
        np.testing.assert_allclose(p, a["proj_out"], rtol=1e-12, atol=1e-15, err_msg=f"{V}")
        # Its float32 divisor is a small integer, which float32 holds.
        np.testing.assert_allclose(p, a["proj_out_batch"], rtol=1e-12, atol=1e-15, err_msg=f"{V}")
        cut |= (p == 0).any()
    assert cut


def test_guidance_by_scores_is_guidance_by_probabilities(x64):
    for V, a in cases():
        (label, free), (p, p_free) = networks(a)
        process, z = DirichletFlow(V), jnp.asarray(a["x"])
        t = time_of(process, a["guid_alpha"], len(z))
        # The official method solves a linear system for the distribution whose score is the guided one.
        # Its entries go up to 1 / x, and so does what is lost of the digits.
        lost = 1e-10 + 1e3 * np.finfo(float).eps / np.maximum(a["x"], 1e-290).min()
        np.testing.assert_allclose(
            a["guid_score"], a["guid_add"], rtol=lost, atol=lost, err_msg=f"{V}"
        )
        expected = project(jnp.asarray(a["guid_add"]))
        distribution = np.exp(classifier_free(process, label, free, MIX)(z, t))
        np.testing.assert_allclose(distribution, expected, **TIGHT)

        def log_p_label(z, t, difference=p - p_free, conc=a["guid_alpha"]):
            return (conc - 1) * jnp.sum(difference * log_state(z), axis=(1, 2))

        # A classifier whose score is the difference of the two scores is the same guidance.
        distribution = np.exp(classifier(process, free, log_p_label, MIX)(z, t))
        np.testing.assert_allclose(distribution, expected, **TIGHT)
        model = classifier_free(process, label, free, 1 - TILT, "log_probability")
        np.testing.assert_allclose(np.exp(model(z, t)), a["guid_tilt"], rtol=1e-9, err_msg=f"{V}")
