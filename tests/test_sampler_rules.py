"""The rules of samplers as pure functions, against their papers' formulas: no network, no sampling."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from test_schedules import SCHEDULES, AlphaOnly

from samplers.remask import by_confidence, remasking, revealing
from samplers.unmask import scores

TIMES = np.array([*itertools.combinations(np.linspace(0, 1, 6), 2), (0.3, 0.3 + 1e-6)])


def of_step(schedule):
    """alpha(t), 1 - alpha(s), alpha(s) - alpha(t) of several steps t -> s."""
    s, t = jnp.asarray(TIMES.T)
    logs = schedule.log_alpha(t), schedule.log1m_alpha(s), schedule.log_drop(t, s)
    return [np.exp(log) for log in logs]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("rule", ["cap", "rescale"])
@pytest.mark.parametrize("eta", [0.0, 0.02, 0.5, 1.0])
def test_remdm_keeps_the_marginals_of_the_forward_process(name, rule, eta, x64):
    """q(z_s | x0) is the mean over q(z_t | x0) of the remasking step (arXiv 2503.00307, Theorem 3.1)."""
    for schedule in (SCHEDULES[name][0], AlphaOnly(name)):
        kept_t, masked_s, drop = of_step(schedule)
        sigma = np.asarray(remasking(kept_t, masked_s, rule, eta))
        reveal = np.asarray(revealing(kept_t, masked_s, drop, sigma))
        masked_t, kept_s = drop + masked_s, drop + kept_t
        np.testing.assert_allclose(masked_t * reveal + kept_t * (1 - sigma), kept_s, rtol=1e-9)
        np.testing.assert_allclose(
            masked_t * (1 - reveal) + kept_t * sigma, masked_s, rtol=1e-9, atol=1e-12
        )
        assert (sigma >= 0).all() and (reveal >= 0).all() and (reveal <= 1 + 1e-12).all()


@pytest.mark.parametrize("name", ["linear", "cosine", "geometric"])
def test_remdm_is_the_formula_of_its_paper(name, x64):
    """sigma of equations (7) to (9), and the chance to reveal, (alpha_s - (1 - sigma) alpha_t) / (1 -
    alpha_t); nothing remasked is the chance of ancestral sampling."""
    kept_t, masked_s, drop = of_step(SCHEDULES[name][0])
    most = np.minimum(1, masked_s / np.maximum(kept_t, 1e-300))
    for eta in (0.0, 0.3, 1.0):
        cap, rescaled = (remasking(kept_t, masked_s, rule, eta) for rule in ("cap", "rescale"))
        np.testing.assert_allclose(cap, np.minimum(eta, most), rtol=1e-12)
        np.testing.assert_allclose(rescaled, eta * most, rtol=1e-12)
        formula = (1 - masked_s - (1 - cap) * kept_t) / (1 - kept_t)
        np.testing.assert_allclose(revealing(kept_t, masked_s, drop, cap), formula, rtol=1e-6)
    ancestral = drop / (drop + masked_s)
    np.testing.assert_allclose(revealing(kept_t, masked_s, drop, 0.0), ancestral, rtol=1e-12)
    to_data = masked_s == 0
    assert (np.asarray(revealing(kept_t, masked_s, drop, cap))[to_data] == 1).all()


def test_confidence_shares_sigma_out_by_what_tokens_were_drawn_with():
    sigma, drawn_with = jnp.full((2, 4), 0.3), jnp.array([[0.9, 0.5, 0.1, 1.0]] * 2)
    free = jnp.array([[True, True, True, False], [False] * 4])
    weight = np.exp(-np.array([0.9, 0.5, 0.1]))
    expected = [[*(0.3 * weight / weight.sum()), 0], [0] * 4]
    np.testing.assert_allclose(by_confidence(sigma, drawn_with, free), expected, rtol=1e-6)


def test_orders_of_unmask_are_their_definitions(x64):
    """Of logits with any constant, an impossible token among them; position 0 has the likeliest token, 1
    the clearest winner, 2 the least entropy."""
    p = np.array([[0.5, 0.45, 0.02, 0.03], [0.45, 0.2, 0.15, 0.2], [0.49, 0.49, 0.02, 0.0]])
    with np.errstate(divide="ignore"):
        log_p = jnp.asarray(np.log(p) + np.array([[0.0], [50.0], [-3.0]]))[None]
    x0 = jnp.array([[1, 0, 2]])
    largest, drawn = np.log(p.max(1)), np.log(p[np.arange(3), x0[0]])
    entropy = -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=1)
    margin = np.sort(p)[:, -1] - np.sort(p)[:, -2]
    assert (largest.argmax(), margin.argmax(), entropy.argmin()) == (0, 1, 2)
    expected = {
        "random": 0 * entropy,
        "confidence": largest,
        "drawn": drawn,
        "margin": margin,
        "entropy": -entropy,
    }
    for order, score in expected.items():
        log_sure = drawn if order == "drawn" else largest
        for got, right in zip(scores(order, log_p, x0), (score, entropy, log_sure), strict=True):
            np.testing.assert_allclose(got[0], right, rtol=1e-12, atol=1e-14, err_msg=order)
