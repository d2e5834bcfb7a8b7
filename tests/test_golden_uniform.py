"""Uniform diffusion against numbers of the official UDLM and Duo code, in float64.

Both put the network's distribution of x0 into formulas of a one-hot x0, which reads it as leave-one-out.
"""

import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from conftest import reference

from diffusion.betas import ReciprocalBetas
from diffusion.d3pm import D3PM
from diffusion.kernels import Uniform
from diffusion.mdlm import MDLM
from diffusion.numerics import log_one_hot
from diffusion.schedules import Linear, RescaledSchedule, Schedule
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM


@dataclass(frozen=True)
class DuoCosine(Schedule):
    """alpha = 1 - cos(pi / 2 (1 - (1 - eps) t)), the cosine schedule of Duo."""

    eps: float

    def log_alpha(self, t):
        return jnp.log1p(-jnp.exp(self.log1m_alpha(t)))

    def log1m_alpha(self, t):
        return jnp.log(jnp.cos(self._angle(t)))

    def dalpha(self, t):
        return -(1 - self.eps) * jnp.pi / 2 * jnp.sin(self._angle(t))

    def log_drop(self, t, s):
        return jnp.log(jnp.cos(self._angle(t)) - jnp.cos(self._angle(s)))

    def _angle(self, t):
        return jnp.pi / 2 * (1 - (1 - self.eps) * t)


def inputs(a):
    return a["logits"].shape[-1], *(jnp.asarray(a[key]) for key in ("logits", "x0", "xt"))


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def bridge(distribution, z, alpha_t, alpha_s):
    """The reverse step (B, L, V) for a distribution of x0, (B, L, V), in place of its one-hot vector."""
    V, step = distribution.shape[-1], alpha_t / alpha_s
    weights = step * np.eye(V)[z] + (1 - step) / V
    weights = weights * (alpha_s * distribution + (1 - alpha_s) / V)
    return weights / weights.sum(-1, keepdims=True)


def divergence(q, p):
    """KL(q || p), (B, L)."""
    return np.sum(q * np.log(np.where(q > 0, q, 1) / np.where(q > 0, p, 1)), -1)


def at_alphas(a, key):
    """t and s (B, 1) at which `Linear()` has the alphas under `key`."""
    alpha_s, alpha_t = a[key]
    rows = len(a["xt"])
    return jnp.full((rows, 1), 1 - alpha_t), jnp.full((rows, 1), 1 - alpha_s)


def test_continuous_time_bound_is_the_official_integrand(x64):
    a = reference("udlm")
    V, out, x0, z = inputs(a)
    t = jnp.asarray(a["t"])[:, None]
    udlm = UDLM(V, Linear())  # the official loss has alpha = 1 - t, whatever the schedule's eps
    np.testing.assert_allclose(udlm.token_loss(out, x0, z, t), a["nelbo_ct"], rtol=1e-9, atol=1e-11)


def test_score_entropy_of_the_score_that_the_network_implies_is_the_same_bound(x64):
    a = reference("udlm")
    V, out, x0, z = inputs(a)
    t = jnp.asarray(a["t"])[:, None]
    by_distribution = SEDD(V, Uniform(), Linear(), head="leave_one_out")
    by_score = SEDD(V, Uniform(), Linear(), head="score")
    log_s = UDLM(V, Linear()).log_ratio(out, z, t)
    for loss in (by_distribution.token_loss(out, x0, z, t), by_score.token_loss(log_s, x0, z, t)):
        np.testing.assert_allclose(loss, a["nelbo_ct"], rtol=1e-9, atol=1e-11)


def test_discrete_losses_are_the_official_ones_at_every_T(x64):
    a = reference("udlm")
    V, out, x0, z = inputs(a)
    steps = [int(m[1]) for key in a if (m := re.fullmatch(r"d3pm_T(\d+)_loss", key))]
    assert steps
    onehot, distribution = np.eye(V)[a["x0"]], softmax(a["logits"])
    for T in steps:
        golden, t = a[f"d3pm_T{T}_loss"], a[f"d3pm_T{T}_t"][:, None]
        # The official code adds 1e-12 inside the logarithm of q: V times that at most, and T times.
        slack = {"rtol": 1e-9, "atol": 1e-11 + 1e-12 * V * T, "err_msg": f"T = {T}"}

        def mathematics(alpha_t, alpha_s, T=T):
            alphas = (alpha_t[..., None], alpha_s[..., None])
            q, p = (bridge(x, a["xt"], *alphas) for x in (onehot, distribution))
            return T * divergence(q, p)

        # It also moves t = 1 to 1 - 1e-4 in alpha(t): the mathematics judges there.
        alpha_s = np.minimum(1 - (t - 1 / T), 1)
        np.testing.assert_allclose(
            mathematics(1 - np.minimum(t, 1 - 1e-4), alpha_s), golden, **slack
        )
        process = D3PM(V, Uniform(), ReciprocalBetas(), num_steps=T)
        loss = np.asarray(process.token_loss(out, x0, z, jnp.asarray(t)))
        inner = t[:, 0] <= 1 - 1e-4
        np.testing.assert_allclose(loss[inner], golden[inner], **slack)
        last = np.ones_like(t)
        np.testing.assert_allclose(
            process.token_loss(out, x0, z, jnp.asarray(last)),
            mathematics(0 * last, last / T),
            rtol=1e-9,
            atol=1e-11,
        )


def posterior_cases():
    for name in ("udlm", "duo"):
        a = reference(name)
        for key in a:
            if match := re.fullmatch(r"(post_(?:\w+_)?)alpha_s_t", key):
                yield a, key, match[1]


def test_official_posteriors_read_the_network_as_leave_one_out(x64):
    true = model = 0
    for a, key, prefix in posterior_cases():
        V, out, x0, z = inputs(a)
        t, s = at_alphas(a, key)
        golden = a[f"{prefix}model" if f"{prefix}model" in a else "posterior"]
        leave_one_out = UDLM(V, Linear())
        log_p = leave_one_out.log_posterior(leave_one_out.predict(out, z, t), z, t, s)
        np.testing.assert_allclose(jnp.exp(log_p), golden, rtol=1e-9)
        model += 1
        if f"{prefix}true" in a:
            log_q = leave_one_out.log_posterior(log_one_hot(x0, V), z, t, s)
            np.testing.assert_allclose(jnp.exp(log_q), a[f"{prefix}true"], rtol=1e-9)
            true += 1
        # Read as p(x0 | z_t), the same output is the mixture of the bridges, which is something else.
        posterior = UDLM(V, Linear(), head="posterior")
        log_p = posterior.log_posterior(posterior.predict(out, z, t), z, t, s)
        alpha_s, alpha_t = a[key]
        mixture = sum(
            softmax(a["logits"])[..., v, None]
            * bridge(np.broadcast_to(np.eye(V)[v], out.shape), a["xt"], alpha_t, alpha_s)
            for v in range(V)
        )
        np.testing.assert_allclose(jnp.exp(log_p), mixture, rtol=1e-9)
        assert np.abs(mixture - golden).sum(-1).max() > 1e-6
    assert true and model > true


def test_sampler_steps_are_the_official_ones(x64):
    a = reference("udlm")
    t = jnp.asarray(a["sampler_t"])[:, None]
    V, out, _, z = inputs(a)
    uniform, masked = UDLM(V, Linear(1e-3)), MDLM(V, Linear(1e-3))
    hidden_out, hidden_z = jnp.asarray(a["mask_logits_uncond"][..., :V]), jnp.asarray(a["mask_xt"])
    for process, out_, z_, key in [
        (uniform, out, z, "ddpm_uniform"),
        (masked, hidden_out, hidden_z, "ddpm_absorb"),
    ]:
        log_p0 = process.predict(out_, z_, t)
        step = jnp.exp(process.log_posterior(log_p0, z_, t, t - a["sampler_dt"]))
        np.testing.assert_allclose(step, a[key], rtol=1e-9, atol=1e-12, err_msg=key)
    conditional = jnp.asarray(a["mask_logits_cond"][..., :V])
    np.testing.assert_allclose(
        jnp.exp(masked.predict(conditional, hidden_z, t)),
        np.exp(a["mask_subs_cond"])[..., :V],
        rtol=1e-9,
        atol=1e-12,
    )


def test_reconstruction_converts_the_leave_one_out_distribution_and_the_official_one_does_not(x64):
    """The official term is -log softmax(out)[x0] whatever z_0 is: that of head = "posterior"."""
    a = reference("udlm")
    V, out, x0, _ = inputs(a)
    noisy = RescaledSchedule(Linear(), 0.4)
    u = jnp.full((len(x0), 1), 0.5)

    def reconstruction(process):
        seen = []

        def model(z, t):
            seen.append(np.asarray(z))
            return out

        terms = process.bound_terms(jax.random.key(0), model, x0, u)
        return terms.get("reconstruction"), seen[-1]

    value, _ = reconstruction(UDLM(V, noisy, head="posterior"))
    np.testing.assert_allclose(value, a["recon_loss"], rtol=1e-9)
    value, z = reconstruction(UDLM(V, noisy))
    kept = z == a["x0"]
    assert kept.any() and not kept.all()
    alpha = float(jnp.exp(noisy.log_alpha(jnp.zeros(()))))
    distribution = softmax(a["logits"]) * (alpha * np.eye(V)[z] + (1 - alpha) / V)
    of_x0 = (distribution * np.eye(V)[a["x0"]]).sum(-1) / distribution.sum(-1)
    np.testing.assert_allclose(value, -np.log(of_x0), rtol=1e-9)
    # To be kept is a sign of x0, of as much use as the network leaves room for.
    gain = (a["recon_loss"] - value)[kept]
    assert (gain > 0)[np.exp(-a["recon_loss"][kept]) < 1 - 1e-9].all() and (gain > -1e-12).all()
    # Without noise at t = 0 the token itself tells x0, and there is no term.
    assert reconstruction(UDLM(V, Linear(1e-3)))[0] is None
    certain = UDLM(V, Linear(1e-3)).predict(out, x0, jnp.zeros_like(u))
    np.testing.assert_array_equal(jnp.exp(certain), np.eye(V)[a["x0"]])


def test_duo_bound_is_the_official_integrand_up_to_the_slope_of_its_cosine(x64):
    a = reference("duo")
    V, out, x0, z = inputs(a)
    t = jnp.asarray(a["t"])[:, None]
    eps = 1e-3
    # The official cosine slope is that with respect to (1 - eps) t: it lacks the factor 1 - eps.
    known = {"loglinear": (Linear(eps), 1.0), "cosine": (DuoCosine(eps), 1 - eps)}
    found = [match[1] for key in a if (match := re.fullmatch(r"nll_(\w+)", key))]
    assert len(found) > 1
    for name in found:
        schedule, factor = known[name]
        tight = {"rtol": 1e-9, "err_msg": name}
        np.testing.assert_allclose(jnp.exp(schedule.log_alpha(t)), a[f"alpha_{name}"], **tight)
        slope = jax.grad(lambda time, s=schedule: jnp.exp(s.log_alpha(time)).sum())(t)
        np.testing.assert_allclose(slope, factor * a[f"dalpha_{name}"], **tight)
        np.testing.assert_allclose(slope, schedule.dalpha(t), **tight)
        loss = UDLM(V, schedule).token_loss(out, x0, z, t)
        np.testing.assert_allclose(loss, factor * a[f"nll_{name}"], atol=1e-11, **tight)
