"""`ddlm.Toy`, the enumeration that users prove a process of their own with, against the oracle of the
tests, which derives the exact network and the samplers' distributions in its own way."""

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from process_cases import CONTINUOUS, GRIDS

import ddlm

TOY = ddlm.Toy.drawn(3, 3, 113)
ORACLE = oracle.Toy(TOY.p, 3, 3)
# One of each network head and kernel.
SOME = ["mdlm-cosine", "sedd-uniform", "sedd-absorbing-scaled", "udlm", "genmd4-power"]


@pytest.mark.parametrize("name", SOME)
def test_the_bound_of_the_exact_denoiser_is_the_likelihood(name):
    bound = TOY.bound(oracle.complete(CONTINUOUS[name], 3))
    np.testing.assert_allclose(bound, TOY.neg_logp, rtol=1e-5)


def test_a_wrong_weight_is_found():
    class Cheap(ddlm.MDLM):
        def token_loss(self, out, x0, z, t):
            return 0.99 * super().token_loss(out, x0, z, t)

    assert TOY.bound(Cheap(3)) == pytest.approx(0.99 * TOY.neg_logp, rel=1e-5)


def test_the_bound_of_a_grid_is_that_of_the_enumerated_chain():
    for kernel, of in (
        (ddlm.Absorbing(), enumeration.Masked),
        (ddlm.Uniform(), enumeration.Uniform),
    ):
        bound = TOY.bound(ddlm.D3PM(3, kernel=kernel, num_steps=4), num_steps=4)
        np.testing.assert_allclose(bound, of(ORACLE).d3pm_bound(4), rtol=1e-6)
        assert TOY.p @ bound > TOY.entropy + 0.01


def test_ancestral_sampling_is_that_of_the_enumerated_chain_and_tends_to_the_data():
    for process, of in ((ddlm.MDLM(3), enumeration.Masked), (ddlm.UDLM(3), enumeration.Uniform)):
        found = {T: TOY.ancestral(process, np.linspace(1, 0, T + 1)) for T in (1, 4, 64)}
        np.testing.assert_allclose(found[4], of(ORACLE).d3pm(4), atol=1e-7)
        far = [np.abs(p - TOY.p).sum() / 2 for p in found.values()]
        assert far[0] > 2 * far[1] > 20 * far[2]


@pytest.mark.parametrize("name", ["mdlm-linear", "udlm", "sedd-uniform", "d3pm-gaussian"])
def test_the_network_is_the_one_of_the_oracle(name, x64):
    process = oracle.complete((CONTINUOUS | GRIDS)[name], 3)
    z = jnp.asarray(TOY.all_states(process))
    t = jnp.full((len(z), 1), 0.6)
    exact = process.predict(ORACLE.denoiser(process)(z, t), z, t)
    np.testing.assert_allclose(
        np.exp(process.predict(TOY.denoiser(process)(z, t), z, t)), np.exp(exact), atol=1e-9
    )


def test_the_network_serves_a_sampler_in_float32_after_sums_in_float64():
    process, sampler, rows = ddlm.MDLM(3), ddlm.Ancestral(steps=4), 20_000
    p = TOY.ancestral(process, np.linspace(1, 0, 5))
    draw = jax.jit(lambda key: sampler.sample(key, process, TOY.denoiser(process), (rows, 3)))
    counts = np.bincount(TOY.index(draw(jax.random.key(0))), minlength=27)
    oracle.assert_distribution(counts, p)


def test_what_cannot_be_enumerated_is_an_error():
    with pytest.raises(ValueError, match="terms at the ends of time, prior"):
        TOY.bound(ddlm.MDLM(3, ddlm.Linear(0.05)))
    with pytest.raises(ValueError, match=r"3\^2 probabilities above 0"):
        ddlm.Toy(np.ones(4) / 4, 3, 2)
