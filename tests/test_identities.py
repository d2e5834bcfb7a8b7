"""One method equals another, or is the limit of another: nothing here is compared with itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import Toy, complete, quadrature

from diffusion.betas import LinearBetas
from diffusion.d3pm import D3PM
from diffusion.dense import BandDiagonal, Gaussian, Masked, Matrix, NearestNeighbour
from diffusion.kernels import Uniform
from diffusion.mdlm import MDLM
from diffusion.schedules import Cosine, Geometric, Linear, MDLMCosine
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM

V, B, L, T = 5, 6, 4, 20_000


def network(z, t):
    """Some function of what a network sees, (B, L, V)."""
    positions = jnp.arange(z.shape[1], dtype=t.dtype)[None, :, None]
    tokens = jnp.arange(V, dtype=t.dtype)[None, None]
    return (
        jnp.sin(1.7 * tokens + z[..., None] * (1 + tokens) + positions) + t[..., None] * tokens / 3
    )


def data(seed=0):
    x0 = jnp.asarray(np.random.default_rng(seed).integers(0, V, (B, L)))
    return jax.random.key(seed), x0, (jnp.arange(B)[:, None] + 0.5) / B


def test_sedd_absorbing_is_mdlm_to_the_printed_digit():
    key, x0, u = data()
    for schedule in (Linear(), Linear(1e-3), Cosine(), Geometric()):
        mdlm, sedd = MDLM(V, schedule), SEDD(V, schedule=schedule, head="leave_one_out")
        for name in ("loss", "bound"):
            a, b = (getattr(p, name)(key, network, x0, u).sum() for p in (mdlm, sedd))
            assert f"{a:.5g}" == f"{b:.5g}" and a != 0
    # and through the free score that the denoiser implies, log s = log p + log odds
    score = SEDD(V, schedule=Linear())
    z, t = score.corrupt(key, x0, u), u
    log_s = jax.nn.log_softmax(network(z, t)) + score.log_odds(t)[..., None]
    np.testing.assert_allclose(
        score.token_loss(log_s, x0, z, t), MDLM(V).token_loss(network(z, t), x0, z, t), rtol=1e-5
    )


def test_sedd_uniform_is_udlm(x64):
    key, x0, u = data()
    for schedule in (Linear(), MDLMCosine(), Geometric(1e-3, 8.0)):
        udlm, sedd = UDLM(V, schedule), SEDD(V, Uniform(), schedule, head="leave_one_out")
        a, b = (p.bound(key, network, x0, u) for p in (udlm, sedd))
        np.testing.assert_allclose(a, b, rtol=1e-12)
        z = udlm.corrupt(key, x0, u)
        free = SEDD(V, Uniform(), schedule)
        log_s = udlm.log_ratio(network(z, u), z, u)
        np.testing.assert_allclose(
            free.token_loss(log_s, x0, z, u),
            udlm.token_loss(network(z, u), x0, z, u),
            rtol=1e-6,
            atol=1e-12,
        )


def test_d3pm_absorbing_is_discrete_time_mdlm(x64):
    key, x0, u = data()
    for steps in (1, 7, 1000):
        d3pm, mdlm = D3PM(V, num_steps=steps), MDLM(V, num_steps=steps)
        t = mdlm.time(u)
        z = mdlm.corrupt(key, x0, t)
        a, b = (p.token_loss(network(z, t), x0, z, t) for p in (d3pm, mdlm))
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


def excess_of_rates(rate, marginal, log_c, x0, z):
    """sum_(y != z) rate[y, z] r_y D(log s_y / r_y): the limit of KL / dt, from its definition, (B, L).

    rate (S, S): forward, per unit of time; marginal (V, S): q(z_t = j | x = i); c leave-one-out.
    """
    c = np.exp(np.asarray(log_c)) @ marginal[:V]  # (B, L, S)
    q, x0, z = marginal[np.asarray(x0)], np.asarray(x0), np.asarray(z)
    loss = np.zeros(z.shape)
    for b, i in np.ndindex(z.shape):
        s = c[b, i] / c[b, i, z[b, i]]
        r = q[b, i] / q[b, i, z[b, i]]
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = s - r + np.where(r > 0, r * np.log(r / s), 0)
        loss[b, i] = (np.delete(rate[:, z[b, i]] * terms, z[b, i])).sum()
    return loss


def marginal_of(process, t):
    """q(z_t = j | x = i) for tokens i, (V, S)."""
    states = jnp.arange(process.num_states)[:, None]
    log_q = process.log_likelihood(states, jnp.full((process.num_states, 1), t))
    return np.exp(np.asarray(log_q))[:, 0].T


def generator(process, t):
    """The forward rates of a grid at t, (S, S), from one of its many steps."""
    steps = process.num_steps
    states = jnp.arange(process.num_states)[:, None]
    now, then = (jnp.full(states.shape, (round(t * steps) - k) / steps) for k in (0, 1))
    return steps * np.exp(np.asarray(process.chain.log_step(states, now, then)))[:, 0].T


MANY = {
    "absorbing": D3PM(num_steps=T),
    "uniform": D3PM(kernel=Uniform(), num_steps=T),
    "nearest": D3PM(kernel=NearestNeighbour(2), schedule=LinearBetas(1 / T, 3 / T), num_steps=T),
    "band": D3PM(kernel=BandDiagonal(1), schedule=LinearBetas(3 / T, 3 / T), num_steps=T),
    "matrix": D3PM(kernel=Matrix(""), schedule=LinearBetas(1 / T, 4 / T), num_steps=T),
    "masked": D3PM(kernel=Masked(BandDiagonal(2)), schedule=LinearBetas(2 / T, 2 / T), num_steps=T),
}


@pytest.mark.representatives("absorbing", "uniform", "matrix", "masked")
@pytest.mark.parametrize("name", MANY)
def test_master_identity_of_every_kernel(name, x64):
    """T KL(q(z_s | z_t, x0) || p(z_s | z_t)) on a fine grid is the integrand made of forward rates. (The
    Gaussian kernel has no such limit: its off-diagonal entries vanish faster than beta.)"""
    process = complete(MANY[name], V)
    key, x0, _ = data(1)
    for t in (0.2, 0.7):
        now = jnp.full((B, 1), t)
        z = process.corrupt(key, x0, now)
        out = network(z, now)
        expected = excess_of_rates(
            generator(process, t),
            marginal_of(process, t),
            process.leave_one_out(out, z, now),
            x0,
            z,
        )
        loss = process.token_loss(out, x0, z, now)
        np.testing.assert_allclose(loss, expected, rtol=2e-3, atol=1e-6)
        assert expected.max() > 0.1


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Geometric(0.01, 5.0)])
def test_master_identity_of_continuous_time(schedule, x64):
    key, x0, _ = data(2)
    mask = np.zeros((V + 1, V + 1))
    mask[:V, V], mask[np.arange(V), np.arange(V)] = 1, -1
    uniform = np.full((V, V), 1 / V) - np.eye(V)
    for process, graph in (
        (MDLM(V, schedule), mask),
        (SEDD(V, schedule=schedule, head="leave_one_out"), mask),
        (UDLM(V, schedule), uniform),
        (UDLM(V, schedule, head="posterior"), uniform),
        (SEDD(V, Uniform(), schedule, head="leave_one_out"), uniform),
    ):
        for t in (0.05, 0.6):
            now = jnp.full((B, 1), t)
            z = process.corrupt(key, x0, now)
            out = network(z, now)
            log_c = jnp.asarray(process.leave_one_out(out, z, now))
            if (
                graph is mask
            ):  # what a revealed position says of others does not matter: only its own
                log_c = jnp.where((z == V)[..., None], log_c, jax.nn.log_softmax(out))
            rate = -float(
                schedule.dalpha(jnp.float64(t)) / jnp.exp(schedule.log_alpha(jnp.float64(t)))
            )
            expected = excess_of_rates(rate * graph, marginal_of(process, t), log_c, x0, z)
            expected = np.where(graph is mask and np.asarray(z) < V, 0, expected)
            np.testing.assert_allclose(process.token_loss(out, x0, z, now), expected, rtol=1e-7)


def test_heads_hold_the_same_distribution_when_converted(x64):
    key, x0, u = data(3)
    for a, b in (
        (UDLM(V), UDLM(V, head="posterior")),
        (D3PM(V, Uniform(), num_steps=8), D3PM(V, Uniform(), num_steps=8, head="posterior")),
        (
            D3PM(V, Gaussian(), LinearBetas(0.1, 0.9), 8),
            D3PM(V, Gaussian(), LinearBetas(0.1, 0.9), 8, head="posterior"),
        ),
    ):
        t = a.time(u)
        z = a.corrupt(key, x0, t)
        out = network(z, t)
        posterior = a.predict(out, z, t)
        np.testing.assert_allclose(b.predict(posterior, z, t), posterior, rtol=1e-9)
        np.testing.assert_allclose(
            a.token_loss(out, x0, z, t), b.token_loss(posterior, x0, z, t), rtol=1e-6, atol=1e-9
        )
        assert np.abs(a.token_loss(out, x0, z, t) - b.token_loss(out, x0, z, t)).max() > 0.01


def test_the_posterior_in_the_leave_one_out_formula_is_wrong_by_nats(x64):
    """The bound of UDLM's paper with what it calls the denoiser in it: by 0.2 nats in the mean."""
    toy = Toy.named()
    process = UDLM(toy.vocab_size)
    tight, loose = toy.denoiser(process), toy.denoiser(UDLM(toy.vocab_size, head="posterior"))

    @jax.jit
    def cost(time):
        z, t = jnp.asarray(toy.states), jnp.full((len(toy.p), 1), time)
        q = toy.transition(process, z, t)
        losses = [
            jnp.stack(
                [
                    process.token_loss(model(z, t), jnp.broadcast_to(x, z.shape), z, t).sum(1)
                    for x in jnp.asarray(toy.states)
                ]
            )
            for model in (tight, loose)
        ]
        return jnp.stack([(q * loss).sum(1) for loss in losses])

    costs = sum(w * np.asarray(cost(t)) for t, w in zip(*quadrature(), strict=True))
    gaps = costs - toy.neg_logp
    assert np.abs(gaps[0]).max() < 1e-3 and toy.p @ gaps[1] > 0.2
