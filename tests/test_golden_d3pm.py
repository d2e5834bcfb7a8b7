"""D3PM against numbers of the official text and image code, in float64."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from conftest import reference
from d3pm_cases import LN2, bayes, cases, chosen, kl, nearest, text_linear

from diffusion.betas import (
    CosineBetas,
    LinearBetas,
    MutualInformation,
    ReciprocalBetas,
)
from diffusion.kernels import Absorbing, Uniform
from diffusion.numerics import divergence, log_softmax

both_files = pytest.mark.parametrize("load", ["text", "images"])


def test_beta_schedules_of_the_image_code():
    a = reference("d3pm_images")
    ours = {
        "linear": LinearBetas(*a["linear_start_stop"]),
        "cosine": CosineBetas(),
        "jsd": ReciprocalBetas(),
    }
    for name, schedule in ours.items():
        golden = a[f"betas_{name}"]
        betas = schedule.betas(len(golden), Uniform(), a["logits"].shape[-1])
        np.testing.assert_allclose(betas, golden, rtol=1e-12, err_msg=name)


def test_beta_schedules_of_the_text_code():
    a = reference("d3pm_text")
    T = len(a["betas_linear"])
    assert a["betas_linear"][-1] < a["beta_min_max"][1]
    ours = {
        "linear": text_linear(a, T),
        "cosine": CosineBetas(),
        "standard": ReciprocalBetas(),
    }
    for name, schedule in ours.items():
        betas = schedule.betas(T, Uniform(), a["logits"].shape[-1])
        np.testing.assert_allclose(betas, a[f"betas_{name}"], rtol=1e-12, err_msg=name)


@both_files
def test_one_step_matrices(load, x64):
    for c in cases(load):
        process, T = c.process, c.T
        np.testing.assert_allclose(c.matrices[0], c.steps, err_msg=c.name, **c.precision)
        if not isinstance(process.kernel, Absorbing | Uniform):
            betas = process.schedule.betas(T, process.kernel, process.vocab_size)
            ours = process.kernel.steps(betas, process.vocab_size)
            np.testing.assert_allclose(ours, c.steps, err_msg=c.name, **c.precision)


@both_files
def test_products_of_the_steps(load, x64):
    overwritten = []
    for c in cases(load):
        T, ours = c.T, c.matrices[1]
        np.testing.assert_allclose(ours[:T], c.products[:T], err_msg=c.name, **c.precision)
        if c.marginal is not None:
            np.testing.assert_allclose(ours[c.k, c.x0], c.marginal, err_msg=c.name, **c.precision)
        # The text code overwrites Qbar_T of the uniform and of the absorbing kernel by the stationary
        # distribution, and has none of the Gaussian (it reads the one before). Ours is the product, so
        # that what the schedule leaves is drawn, and counted by the prior term.
        np.testing.assert_allclose(ours[T], c.end, err_msg=c.name, **c.precision)
        if len(c.products) > T and np.abs(c.products[T] - c.end).max() > 1e-12:
            overwritten.append(c.process)
            limit = np.exp(c.process.kernel.log_stationary(c.process.vocab_size))
            np.testing.assert_allclose(c.products[T], np.tile(limit, (len(limit), 1)), rtol=1e-12)
    assert bool(overwritten) == (load == "text")
    assert all(isinstance(process.schedule, CosineBetas) for process in overwritten)


@both_files
def test_posterior_and_reverse_step(load, x64):
    for c in cases(load):
        rows = c.general
        for i, golden in ((1, c.posterior), (2, c.reverse)):
            step, other = c.factors[0], c.factors[i]
            official = bayes(step, other, c.guard)
            np.testing.assert_allclose(
                official[rows], golden[rows], rtol=0, atol=1e-9, err_msg=c.name
            )
            # Ours has no guard: a / A and (a + d) / (A + D) differ by at most D / A.
            ours = np.exp(log_softmax(c.logs[0] + c.logs[i]))
            extra = (c.guard * (step + other + c.guard)).sum(-1)
            bound = extra / (step * other).sum(-1) + 1e-9
            assert (np.abs(ours - golden).max(-1) <= bound)[rows].all(), c.name


@both_files
def test_kl_term_of_each_step(load, x64):
    for c in cases(load):
        rows = c.general
        step, data, model = c.factors
        with np.errstate(divide="ignore"):
            official = divergence(*(np.log(bayes(step, x, c.guard)) for x in (data, model)))
        ours = divergence(*(log_softmax(c.logs[0] + x) for x in c.logs[1:]))
        np.testing.assert_allclose(
            c.measure(official)[rows], c.loss[rows], rtol=1e-9, atol=1e-9, err_msg=c.name
        )
        step, data, model = c.golden_factors
        expected = kl(bayes(step, data), bayes(step, model))
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9, err_msg=c.name)


@both_files
def test_token_loss_of_kernels_without_a_mask(load, x64):
    checked = 0
    for c in cases(load):
        if c.masked:  # the golden network speaks of the mask too, ours never do
            continue
        loss = c.process.token_loss(c.logits, c.x0, c.z, c.k / c.T) / c.T
        step, data, model = c.golden_factors
        expected = kl(bayes(step, data), bayes(step, model))
        np.testing.assert_allclose(loss, expected, rtol=1e-9, atol=1e-9, err_msg=c.name)
        if c.guard == 0:  # the image code's guard of 1e-6: see `test_kl_term_of_each_step`
            np.testing.assert_allclose(loss, c.loss, rtol=1e-9, atol=1e-9, err_msg=c.name)
        checked += 1
    assert checked > 2


@both_files
def test_first_step_takes_the_head_as_leave_one_out(load, x64):
    for c in cases(load):
        first = np.flatnonzero(c.k[:, 0] == 1)
        assert len(first)
        x0, z, p0 = c.x0[first], c.z[first], c.p0[first]
        log_p = np.asarray(log_softmax(c.logs[0] + c.logs[2]))[first]
        expected = bayes(p0, c.steps[0].T[z])  # softmax(logits) q(z_1 | x0)
        np.testing.assert_allclose(np.exp(log_p), expected, rtol=0, atol=1e-9, err_msg=c.name)
        if c.guard == 0:  # so does the text code
            np.testing.assert_allclose(
                -chosen(log_p, x0), c.loss[first], rtol=1e-9, atol=1e-12, err_msg=c.name
            )
        else:
            # The image code reads the same head as p(x0 | z_1) in this one step, without the factor
            # q(z_1 | x0): plain cross entropy. The mathematics wins, so ours is another number.
            np.testing.assert_allclose(c.reverse[first], p0, rtol=1e-9, err_msg=c.name)
            official = c.measure(c.cross_entropy)[first]
            np.testing.assert_allclose(official, c.loss[first], rtol=1e-9, err_msg=c.name)
        if not c.masked:
            t = np.full((len(first), 1), 1 / c.T)
            ours = np.exp(c.process.predict(c.logits[first], z, t))
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9, err_msg=c.name)


@both_files
def test_hybrid_term(load, x64):
    checked = 0
    for c in cases(load):
        # The official loss is the term of one step, KL + lambda CE; ours is T times that.
        ce = c.measure(c.cross_entropy)
        weight = float(np.median(c.hybrid / ce))
        np.testing.assert_allclose(c.hybrid, weight * ce, rtol=1e-7, err_msg=c.name)
        if not isinstance(c.process.kernel, Uniform):  # nothing in the term depends on the kernel
            continue
        u = (c.k - 0.5) / c.T
        args = jax.random.key(0), lambda z, t, c=c: c.logits, c.x0, u
        added = replace(c.process, hybrid=weight).loss(*args) - c.process.loss(*args)
        np.testing.assert_allclose(
            c.measure(added / c.T), c.hybrid, rtol=1e-7, atol=1e-9, err_msg=c.name
        )
        checked += 1
    assert checked


@both_files
def test_prior_term(load, x64):
    checked = 0
    for c in cases(load):
        V, S, end = c.process.vocab_size, c.steps.shape[-1], c.end
        x0 = c.x0[: c.rows]
        # Ours is against the mean of the rows of Qbar_T over the tokens, from which z_T is drawn.
        value = c.process.prior_term(x0, np.float64).get("prior", np.zeros(x0.shape))
        expected = kl(end[x0], end[:V].mean(0))
        token = x0 < V  # some golden data is the mask itself
        np.testing.assert_allclose(
            value[token], expected[token], rtol=1e-9, atol=1e-12, err_msg=c.name
        )
        if c.prior is None or np.abs(c.products[-1] - end).max() > 1e-12:
            continue  # none is stored, or z_T is taken to be stationary and the term to be 0
        if c.name == "mi_mask":
            continue  # theirs is against the uniform distribution; the process ends at the mask
        # Theirs is against the distribution that the kernel is meant to end in, whether or not it does.
        limit = np.eye(S)[V] if c.masked else np.full(S, 1 / S)
        last = np.exp(c.process.chain.log_marginal(x0, np.ones((c.rows, 1))))
        floor = max(c.guard, 1e-20)
        official = c.measure((last * (np.log(last + floor) - np.log(limit + floor))).sum(-1))
        np.testing.assert_allclose(official, c.prior, rtol=1e-9, atol=1e-9, err_msg=c.name)
        if not c.masked and np.abs(end.sum(0) - 1).max() < 1e-12:
            # Doubly stochastic: the two distributions are one, and only the guard is between the
            # numbers.
            np.testing.assert_allclose(
                c.measure(value), c.prior, rtol=1e-9, atol=1e-9 + S * c.guard / LN2, err_msg=c.name
            )
            checked += 1
    assert checked


def test_nearest_neighbour_rates_and_exponential(x64):
    a = reference("d3pm_text")
    kernel, V = nearest(a), len(a["embeddings"])
    np.testing.assert_allclose(kernel.rates(V), a["nn_rate"], rtol=0, atol=1e-12)
    checked = 0
    for key in a:
        if match := re.fullmatch(r"(nncached_[a-z]+)_base", key):
            unit = np.array([a[f"{match[1]}_min_exponent"]])
            np.testing.assert_allclose(kernel.steps(unit, V)[0], a[key], rtol=0, atol=1e-12)
            checked += 1
    assert checked


def test_information_removal():
    a = reference("d3pm_text")
    p, V = a["initial_distribution"], len(a["initial_distribution"])
    removed = Uniform().information_removal(a["mi_uniform_exponents"], p)
    np.testing.assert_allclose(removed, a["mi_uniform_info_removal"], rtol=1e-9, atol=1e-12)
    e, golden = a["mi_mask_info_removal_grid"]
    removed = Absorbing().information_removal(e, a["initial_distribution_mask"][: V - 1])
    np.testing.assert_allclose(removed, golden, rtol=1e-9, atol=1e-12)
    # The official exponents solve removal = k / (T + 1) by cubic interpolation between some 128 from
    # 1e-4 to 1e5, a factor of 1.18 apart: they miss by 1e-5, and we allow ten times that and more.
    e = a["mi_nn_exponents"]
    wanted = np.arange(len(e)) / len(e)
    np.testing.assert_allclose(nearest(a).information_removal(e, p), wanted, rtol=0, atol=2e-4)


def test_mutual_information_exponents():
    a = reference("d3pm_text")
    p, V = a["initial_distribution"], len(a["initial_distribution"])
    # Official: removal k / (T + 1), k = 1..T, and no step that removes all. Ours: k / T, and the last
    # step does. So the T of theirs are the first of our T + 1. Tolerance: their interpolation.
    for name, kernel in (("uniform", Uniform()), ("nn", nearest(a))):
        golden = a[f"mi_{name}_exponents"][1:]
        wanted = np.arange(1, len(golden) + 1) / (len(golden) + 1)
        found = kernel.exponents(wanted, p)
        np.testing.assert_allclose(found, golden, rtol=5e-4, err_msg=name)
        np.testing.assert_allclose(kernel.information_removal(found, p), wanted, rtol=1e-5)
        betas = MutualInformation(tuple(p)).betas(len(golden) + 1, kernel, V)[:-1]
        noise = betas if name == "nn" else -np.log1p(-betas)
        np.testing.assert_allclose(np.cumsum(noise), golden, rtol=5e-4, err_msg=name)
    # The nearest-neighbour ones are rounded to multiples of the first.
    assert (np.abs(found / found[0] - a["mi_nn_powers"][1:]) < 0.5 + 5e-4 * found / found[0]).all()


def test_mutual_information_of_the_absorbing_kernel_needs_no_data():
    a = reference("d3pm_text")
    p = a["initial_distribution_mask"]
    assert p[-1] == 0
    golden = a["mi_mask_exponents"]  # the last step masks all, its exponent repeats the one before
    T = len(golden) - 1
    betas = MutualInformation(tuple(p[:-1])).betas(T, Absorbing(), len(p) - 1)
    np.testing.assert_allclose(betas, 1 / (T - np.arange(T)), rtol=1e-12)
    noise = np.cumsum(-np.log1p(-betas[:-1]))
    np.testing.assert_allclose(noise, golden[1:-1], rtol=5e-4)  # their interpolation
