"""SEDD against numbers of the official code, in float64; and its score entropy in float32."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from conftest import reference

from diffusion.kernels import Absorbing, Uniform
from diffusion.schedules import Geometric, Linear
from diffusion.sedd import SEDD

GRAPHS = {"uniform": Uniform(), "absorb": Absorbing()}


class Group(NamedTuple):
    """What the file holds of one graph under one schedule; `arrays` without the prefix."""

    name: str
    process: SEDD
    arrays: dict[str, np.ndarray]
    out: jax.Array
    z: jax.Array
    t: jax.Array


def schedules(a):
    low, high = a["geometric_sigma_min_max"]
    return {"loglinear": Linear(1e-3), "geometric": Geometric(float(low), float(high))}


def groups(a):
    named = [re.fullmatch(r"([a-z]+)_([a-z]+)_score_entropy", key) for key in a]
    found = [match.groups() for match in named if match]
    assert {graph for graph, _ in found} == set(GRAPHS) and len(found) > 2
    for graph, schedule in found:
        prefix = f"{graph}_{schedule}_"
        arrays = {key.removeprefix(prefix): a[key] for key in a if key.startswith(prefix)}
        # The column of the mask is 0 where the position is masked, and unused where it is not. The
        # network may say what it likes of the position's own state: the official code has 0 there.
        V = arrays["log_score"].shape[-1] - (graph == "absorb")
        own = np.arange(V) == arrays["x"][..., None]
        out = np.where(own, 1, arrays["log_score"][..., :V])
        yield Group(
            prefix,
            SEDD(V, GRAPHS[graph], schedules(a)[schedule]),
            arrays,
            jnp.asarray(out),
            jnp.asarray(arrays["x"]),
            jnp.asarray(a["t"])[:, None],
        )


def linear_time(sigma):
    """(B, 1): the time at which `Linear()` has the total noise sigma (B,)."""
    return jnp.asarray(-np.expm1(-sigma))[:, None]


def take(values, index):
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def official_ratio(e, V):
    return 1 - V / (e + V)


def mended_ratio(e, V):
    return e / (e + V)


def published_entropy(log_s, x0, z, sigma, ratio):
    """pos - neg + const of the uniform graph as published, in the precision of log_s and sigma (B, 1).

    ratio(e, V) is that of a moved token to the kept one, two formulas of one number.
    """
    V, e = log_s.shape[-1], np.expm1(sigma)
    r, s = ratio(e, V), np.exp(log_s)
    pos = s.mean(-1) - take(s, z) / V
    mean = log_s.mean(-1) - take(log_s, z) / V
    neg = np.where(z == x0, r * mean, take(log_s, x0) / e + mean)
    kept, moved = (V - 1) / V * r * (np.log(r) - 1), ((-np.log(r) - 1) / r - (V - 2)) / V
    return pos - neg + np.where(z == x0, kept, moved)


def test_total_noise_and_its_rate_are_the_official_ones(x64):
    a = reference("sedd")
    grid = jnp.asarray(a["t_grid"])
    found = [match[1] for key in a if (match := re.fullmatch(r"sigma_([a-z]+)", key))]
    assert len(found) > 1
    for name in found:
        process = SEDD(schedule=schedules(a)[name])
        sigma, rate = -process.schedule.log_alpha(grid), process.rate(grid)
        np.testing.assert_allclose(sigma, a[f"sigma_{name}"], rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(rate, a[f"rate_{name}"], rtol=1e-9, err_msg=name)


def test_loss_of_a_free_score_is_the_rate_times_the_official_score_entropy(x64):
    a = reference("sedd")
    x0 = jnp.asarray(a["x0"])
    for name, process, golden, out, z, t in groups(a):
        loss = process.token_loss(out, x0, z, t)
        for value, key in [
            (-process.schedule.log_alpha(t)[:, 0], "sigma"),
            (process.rate(t)[:, 0], "dsigma"),
            (loss / process.rate(t), "score_entropy"),
            (loss, "loss_weighted"),
            (loss.sum(1), "loss_seq"),
        ]:
            np.testing.assert_allclose(
                value, golden[key], rtol=1e-9, atol=1e-11, err_msg=f"{name}{key}"
            )
        if isinstance(process.kernel, Absorbing):
            np.testing.assert_array_equal(loss != 0, z == process.vocab_size)
        else:  # the formula by which the float32 test below judges is the official one
            log_s, sigma = golden["log_score"], golden["sigma"][:, None]
            for ratio in (official_ratio, mended_ratio):
                entropy = published_entropy(log_s, a["x0"], golden["x"], sigma, ratio)
                np.testing.assert_allclose(
                    entropy, golden["score_entropy"], rtol=1e-9, atol=1e-9, err_msg=name
                )


def test_scaled_output_is_the_official_one_at_every_other_state(x64):
    a = reference("sedd")
    V = a["scaling_raw"].shape[-1] - 1  # the official log(K - 1) counts the mask in K: log V
    t = linear_time(a["scaling_sigma"])
    out = jnp.asarray(a["scaling_raw"][..., :V])
    # The official code then sets the entry of the position's own state to 0.
    others = np.arange(V) != a["scaling_x"][..., None]
    masked = jnp.full(a["scaling_x"].shape, V)
    for scaled, key in [(True, "scaling_out_scaled"), (False, "scaling_out_unscaled")]:
        process = SEDD(V, Absorbing(), Linear(), scaled=scaled)
        ratio = np.asarray(process.log_ratio(out, masked, t))
        np.testing.assert_allclose(ratio[..., :V][others], a[key][..., :V][others], rtol=1e-9)
        np.testing.assert_array_equal(ratio[..., V], 0)


def test_forward_and_transposed_transitions_are_the_official_ones(x64):
    a = reference("sedd")
    forward = 0
    for name, process, golden, _, z, t in groups(a):
        s = t - a["step_size"]
        if "transition_x0" in golden:
            distribution = jnp.exp(process.chain.log_marginal(jnp.asarray(a["x0"]), t))
            np.testing.assert_allclose(
                distribution, golden["transition_x0"], rtol=1e-9, err_msg=name
            )
            forward += 1
        step = np.exp(process.chain.log_step(z, t, s))
        np.testing.assert_allclose(
            step, golden["transp_transition"], rtol=1e-9, atol=1e-12, err_msg=name
        )
        # Q Q = -Q on both graphs: exp(dsigma Q) is 1 + (1 - exp(-dsigma)) Q.
        moved = -np.expm1(-golden["dsigma_step"])[:, None, None]
        rate = (step - np.eye(process.num_states)[z]) / moved
        np.testing.assert_allclose(rate, golden["transp_rate"], atol=1e-9, err_msg=name)
    assert forward


def test_tweedie_weights_are_the_official_ones_where_they_are_positive(x64):
    a = reference("sedd")
    for name, process, golden, out, z, t in groups(a):
        weights = np.exp(process.log_tweedie(out, z, t, t - a["step_size"]))
        # exp(-dsigma Q) score is exp(dsigma) times what ours computes: a constant per row.
        weights *= np.exp(golden["dsigma_step"])[:, None, None]
        np.testing.assert_allclose(
            weights, np.maximum(golden["analytic_probs"], 0), rtol=1e-9, atol=1e-12, err_msg=name
        )


def test_last_tweedie_step_removes_all_noise_as_the_official_denoiser(x64):
    """The official last step has dsigma = sigma(t). Ours goes to t = 0, where `Linear` has no noise
    left, and `Geometric` sigma_min: its distribution is as near to the official one as that."""
    a = reference("sedd")
    for name, process, golden, out, z, t in groups(a):
        V, sigma, expected = process.vocab_size, golden["sigma"], golden["denoise_probs"]
        expected = np.maximum(expected, 0)
        exact = SEDD(V, process.kernel, Linear())
        weights = np.exp(exact.log_tweedie(out, z, linear_time(sigma), jnp.zeros_like(t)))
        assert not weights[..., V:].any()  # the official code drops the column of the mask
        weights = weights[..., :V] * np.exp(sigma)[:, None, None]
        np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=1e-12, err_msg=name)
        own = jax.nn.softmax(process.log_tweedie(out, z, t, jnp.zeros_like(t)))[..., :V]
        distance = np.abs(own - expected / expected.sum(-1, keepdims=True)).sum(-1)
        left = -float(process.schedule.log_alpha(jnp.zeros(())))
        assert (distance <= 1e-12 + 10 * left * np.exp(out).mean(-1)).all(), name


def test_float32_score_entropy_keeps_its_digits_where_the_published_arrangement_has_none():
    V, L, sigma, noise = 50_257, 32, 1e-4, 1e-3
    rng = np.random.default_rng(0)
    x0 = np.stack([rng.integers(V, size=L)] * 2)
    z = np.stack([x0[0], (x0[1] + 1) % V])  # a row of kept tokens, one of moved tokens
    t = np.full((2, 1), -np.expm1(-sigma), np.float32)
    exact = np.log1p(V / np.expm1(sigma)) * (np.arange(V) == x0[..., None])
    log_s = exact - take(exact, z)[..., None] + noise * rng.standard_normal(exact.shape)
    np.put_along_axis(log_s, z[..., None], 0, axis=-1)
    log_s = log_s.astype(np.float32)
    process = SEDD(V, Uniform(), Linear())
    inputs = (jnp.asarray(log_s), jnp.asarray(x0), jnp.asarray(z), jnp.asarray(t))
    ours = np.asarray(process.token_loss(*inputs), np.float64).sum(1)

    sigma = -np.log1p(-t.astype(np.float64))  # of the rounded t, at which the rate is exp(sigma)

    def published(dtype, ratio):
        entropy = published_entropy(log_s.astype(dtype), x0, z, sigma.astype(dtype), ratio)
        return np.exp(sigma[:, 0]) * entropy.sum(1)

    truth = published(np.float64, mended_ratio)
    assert (truth > 0).all()
    np.testing.assert_allclose(ours, truth, rtol=1e-3)
    with np.errstate(divide="ignore", invalid="ignore"):
        assert not np.isfinite(published(np.float32, official_ratio)).any()
    off = published(np.float32, mended_ratio) / truth
    assert ((off < 0.5) | (off > 2)).all(), off
