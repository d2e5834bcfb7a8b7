"""Every process, by exact enumeration: its bound, its marginals, its bridge. One row per process."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import reference
from oracle import Toy, assert_law

from diffusion.mdlm import MDLM
from diffusion.schedules import Cosine, Geometric, Linear, MDLMCosine, Polynomial, Squeezed

PROCESSES = {
    "mdlm-linear": MDLM(),
    "mdlm-cosine": MDLM(schedule=Cosine()),
    "mdlm-mdlm_cosine": MDLM(schedule=MDLMCosine()),
    "mdlm-polynomial": MDLM(schedule=Polynomial(3.0)),
}
LOOSE_ENDS = {
    "linear-eps": MDLM(schedule=Linear(0.05)),
    "squeezed": MDLM(schedule=Squeezed(Cosine(), 0.02)),
    "geometric": MDLM(schedule=Geometric(0.01, 4.0)),
}
TOYS = ["toy_V3L3", "toy_V4L2", "toy_V5L2"]


def toy_and(process, name):
    toy = Toy(reference(name))
    return toy, replace(process, vocab_size=toy.vocab_size)


def expected_terms(toy, process, nodes=40):
    """E over z and t of each term of the bound for every x0: times by quadrature, z by enumeration."""
    z = jnp.asarray(toy.masked_states())
    model = toy.denoiser(process)
    log_q = lambda t: jnp.einsum(  # noqa: E731  (N, Z): log q(z | x0)
        "zlv,nlv->nz",
        jnp.maximum(process.log_likelihood(z, t), -1e30),
        jnp.eye(toy.vocab_size)[toy.states],
    )

    def at(t, loss):
        t = jnp.full((len(z), 1), t)
        out = model(z, t)
        per_x0 = [loss(out, jnp.broadcast_to(x, z.shape), t).sum(1) for x in toy.states]
        return (jnp.exp(log_q(t)) * jnp.stack(per_x0)).sum(1)

    x, w = np.polynomial.legendre.leggauss(nodes)
    diffusion = sum(
        wi / 2 * at((xi + 1) / 2, lambda out, x0, t: process.token_loss(out, x0, z, t))
        for xi, wi in zip(x, w, strict=True)
    )
    cross_entropy = lambda out, x0, t: jnp.where(  # noqa: E731
        z == toy.vocab_size, -jnp.take_along_axis(out, x0[..., None], 2)[..., 0], 0
    )
    return diffusion, at(0.0, cross_entropy)


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("process", PROCESSES)
def test_bound_equals_nll_for_exact_denoiser(process, name, x64):
    toy, process = toy_and(PROCESSES[process], name)
    diffusion, _ = expected_terms(toy, process)
    np.testing.assert_allclose(diffusion, toy.neg_logp, atol=1e-7)
    terms = process.bound_terms(
        jax.random.key(0),
        toy.denoiser(process),
        jnp.asarray(toy.states),
        jnp.full((len(toy.p), 1), 0.5),
    )
    assert list(terms) == ["diffusion"]  # exact ends cost nothing


@pytest.mark.parametrize("process", LOOSE_ENDS)
def test_bound_with_loose_ends_counts_every_boundary_term(process, x64):
    toy, process = toy_and(LOOSE_ENDS[process], "toy_V3L3")
    diffusion, at_zero = expected_terms(toy, process, nodes=200)
    rows = 20_000
    x0 = jnp.asarray(np.repeat(toy.states[:1], rows, 0))
    u = (jnp.arange(rows)[:, None] + 0.5) / rows
    terms = process.bound_terms(jax.random.key(1), toy.denoiser(process), x0, u)
    masked_at_0 = float(jnp.exp(process.schedule.log1m_alpha(jnp.zeros(()))))
    assert ("reconstruction" in terms) == (masked_at_0 > 0) and "prior" in terms
    for name, exact in [("diffusion", diffusion[0]), ("reconstruction", at_zero[0])]:
        values = np.asarray(terms[name].sum(1)) if name in terms else np.zeros(rows)
        assert abs(values.mean() - exact) < 5 * values.std() / rows**0.5 + 1e-12
    prior = float(terms["prior"].sum(1)[0])
    # With p(x0 | z_0) drawn jointly the bound is exactly -log p(x0) + E_q(z_1 | x0) log q(z_1) / p(z_1),
    # p(z_1) being the prior; the network's reconstruction, position by position, costs more on average.
    z, alpha = jnp.asarray(toy.masked_states()), jnp.exp(process.schedule.log_alpha(jnp.ones(())))
    q0, q1 = (
        jnp.exp(
            jnp.einsum(
                "zlv,nlv->nz",
                jnp.maximum(process.log_likelihood(z, jnp.full((len(z), 1), t)), -1e30),
                jnp.eye(toy.vocab_size)[toy.states],
            )
        )
        for t in (0.0, 1.0)
    )
    hidden, shown = np.asarray(z) == toy.vocab_size, np.asarray(z)
    agrees = np.array([(hidden | (shown == x)).all(1) for x in toy.states])
    jointly = toy.neg_logp + q0 @ jnp.log(toy.p @ agrees)
    law = jnp.where(z == process.mask, jnp.log1p(-alpha), jnp.log(alpha / toy.vocab_size)).sum(1)
    extra = q1 @ (jnp.log(toy.p @ q1) - law)
    np.testing.assert_allclose(diffusion + jointly + prior, toy.neg_logp + extra, atol=1e-6)
    assert toy.p @ extra > 1e-6 and toy.p @ at_zero >= toy.p @ jointly - 1e-12
    if masked_at_0 > 0:  # leaving the reconstruction out would break the bound
        assert (np.asarray(diffusion) < toy.neg_logp).any()


@pytest.mark.parametrize("name", TOYS)
def test_discrete_time_bound_equals_exact_bound_and_falls_with_steps(name, x64):
    arrays = reference(name)
    toy = Toy(arrays)
    z = jnp.asarray(toy.masked_states())
    previous = np.inf
    steps = sorted(
        int(k.split("_T")[1].split("_")[0])
        for k in arrays
        if k.startswith("d3pm_absorb_T") and k.endswith("_bound")
    )
    assert len(steps) >= 2
    for T in steps:
        process = MDLM(toy.vocab_size, num_steps=T)
        model, total = toy.denoiser(process), 0
        for k in range(1, T + 1):
            t = process.time(jnp.full((len(z), 1), (k - 0.5) / T))
            q = jnp.exp(
                jnp.einsum(
                    "zlv,nlv->nz",
                    jnp.maximum(process.log_likelihood(z, t), -1e30),
                    jnp.eye(toy.vocab_size)[toy.states],
                )
            )
            out = model(z, t)
            loss = [
                process.token_loss(out, jnp.broadcast_to(x, z.shape), z, t).sum(1)
                for x in toy.states
            ]
            total = total + (q * jnp.stack(loss)).sum(1) / T
        np.testing.assert_allclose(total, arrays[f"d3pm_absorb_T{T}_bound"], atol=1e-9)
        mean = float(toy.p @ np.asarray(total))
        assert mean > arrays["entropy"] and mean < previous
        previous = mean


@pytest.mark.parametrize("process", [*PROCESSES, *LOOSE_ENDS])
def test_corrupt_bridge_and_prior_follow_their_exact_laws(process):
    toy, process = toy_and((PROCESSES | LOOSE_ENDS)[process], "toy_V3L3")
    rows, key = 100_000, jax.random.key(3)
    x0 = jnp.asarray(np.repeat(toy.states[5:6], rows, 0))
    for at, (t, s) in enumerate([(0.7, 0.3), (0.9, 0.0)]):
        t, s = jnp.full((rows, 1), t), jnp.full((rows, 1), s)
        keys = jax.random.split(jax.random.fold_in(key, at), 3)
        z = process.corrupt(keys[0], x0, t)
        alpha = float(jnp.exp(process.schedule.log_alpha(t[0, 0])))
        kept = np.asarray(z == x0).sum()
        assert_law(np.array([kept, z.size - kept]), np.array([alpha, 1 - alpha]))
        assert ((z == x0) | (z == process.mask)).all()
        # q(z_s | z_t, x0) averaged over q(z_t | x0) is q(z_s | x0).
        z_s = process.bridge(keys[1], x0, z, t, s)
        alpha_s = float(jnp.exp(process.schedule.log_alpha(s[0, 0])))
        kept = np.asarray(z_s == x0).sum()
        assert_law(np.array([kept, z.size - kept]), np.array([alpha_s, 1 - alpha_s]), bias=1e-6)
        assert (z_s == z)[z != process.mask].all()
    z = np.asarray(process.prior(key, (rows, 3)))
    alpha = float(jnp.exp(process.schedule.log_alpha(jnp.ones(()))))
    law = np.append(np.full(process.vocab_size, alpha / process.vocab_size), 1 - alpha)
    assert_law(np.bincount(z.ravel(), minlength=process.num_states), law)


@pytest.mark.parametrize("process", PROCESSES)
def test_log_posterior_and_ratio_are_those_of_the_enumerated_marginals(process, x64):
    toy, process = toy_and(PROCESSES[process], "toy_V3L3")
    z = jnp.asarray(toy.masked_states())
    t, s = jnp.full((len(z), 1), 0.6), jnp.full((len(z), 1), 0.25)
    model, x = toy.denoiser(process), jnp.asarray(toy.states)

    def marginal(z):
        log_q = jnp.maximum(process.log_likelihood(z, t[: len(z)]), -1e30)
        return jnp.exp(jnp.einsum("zlv,nlv->zn", log_q, jnp.eye(toy.vocab_size)[x])) @ toy.p

    ratio = jnp.exp(process.log_ratio(model(z, t), z, t))
    for i in range(toy.length):
        for v in range(process.num_states):
            y = z.at[:, i].set(v)
            masked = z[:, i] == process.mask
            exact = marginal(y) / marginal(z)
            np.testing.assert_allclose(ratio[:, i, v][masked], exact[masked], rtol=1e-9)
    posterior = jnp.exp(process.log_posterior(process.predict(model(z, t), z, t), z, t, s))
    np.testing.assert_allclose(posterior.sum(-1), 1, rtol=1e-12)
    # Averaged over the exact p(z_t), the posterior gives each position's exact p(z_s).
    alpha_s = jnp.exp(process.schedule.log_alpha(s[0, 0]))
    law = jnp.einsum("z,zls->ls", marginal(z), posterior)
    p0 = jnp.einsum("n,nlv->lv", toy.p, jnp.eye(toy.vocab_size)[x])
    np.testing.assert_allclose(law[:, :-1], alpha_s * p0, rtol=1e-9)


def test_settings_that_make_no_process_are_refused():
    for wrong in [dict(vocab_size=0), dict(num_steps=0)]:
        with pytest.raises(ValueError, match="at least 1"):
            MDLM(**wrong)
