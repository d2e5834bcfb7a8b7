"""Texts of a hidden Markov chain: their likelihood and denoiser against enumeration, and samplers at a
real length against the truth."""

import json
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddlm
from experiments import cli
from experiments.studies.measuring.hidden_markov import VOCAB, distances, entropy_of
from experiments.studies.sampler_table import written
from samplers.first_hitting import FirstHitting
from samplers.path_planning import PathPlanning
from samplers.posterior import Posterior
from samplers.remask import ReMDM
from samplers.tweedie import Tweedie
from samplers.twisted_smc import TwistedSMC
from samplers.unmask import Tokens, Unmask

pytestmark = pytest.mark.representatives()  # a study: make test-all

SHORT = ddlm.HiddenMarkov.drawn(3, 4, seed=1)
LENGTH, ROWS, STEPS = 32, 512, 64
LONG = ddlm.HiddenMarkov.drawn(VOCAB, LENGTH)
MASKED, UNIFORM = ddlm.MDLM(VOCAB), ddlm.UDLM(VOCAB)


@pytest.fixture(scope="module")
def toy():
    states = np.indices((3,) * 4).reshape(4, -1).T
    with jax.enable_x64(True):
        p = np.exp(np.asarray(SHORT.log_p(jnp.asarray(states))))
    assert p.sum() == pytest.approx(1, abs=1e-12)
    return ddlm.Toy(p, 3, 4)


@pytest.mark.parametrize(
    "process", [ddlm.MDLM(3), ddlm.UDLM(3), ddlm.D3PM(3, num_steps=10)], ids=written
)
def test_the_denoiser_is_that_of_the_enumerated_texts(process, toy, x64):
    z = jnp.asarray(toy.all_states(process))
    t = jnp.full((len(z), 1), 0.6)
    found, expected = (of.log_posterior(process, z, t) for of in (SHORT, toy))
    np.testing.assert_allclose(np.exp(found), np.exp(expected), atol=1e-12)


def test_on_the_simplex_too(toy, x64):
    process, t = ddlm.DirichletFlow(3), jnp.full((50, 1), 0.5)
    texts = jnp.asarray(toy.states)
    z = process.corrupt(jax.random.key(0), texts[:50], t)
    log_q = process.log_likelihood(z, t)
    joint = toy.p * np.exp(np.einsum("zlv,nlv->zn", log_q, toy.one_hot))
    p = np.einsum("zn,nlv->zlv", joint / joint.sum(1, keepdims=True), toy.one_hot)
    np.testing.assert_allclose(np.exp(SHORT.log_posterior(process, z, t)), p, atol=1e-9)


def test_texts_are_drawn_of_the_distribution_and_pairs_are_theirs(toy):
    x = np.asarray(SHORT.sample(jax.random.key(0), 20_000))
    counts = np.bincount(toy.index(x), minlength=81)
    assert ((counts - 20_000 * toy.p) ** 2 / (20_000 * toy.p)).sum() < 81 + 5 * (2 * 81) ** 0.5
    for lag in (1, 3):
        pairs = np.zeros((3, 3))
        for text, p in zip(toy.states, toy.p, strict=True):
            np.add.at(pairs, (text[:-lag], text[lag:]), p / (4 - lag))
        np.testing.assert_allclose(SHORT.pairs(lag), pairs, atol=1e-12)


def test_what_is_no_chain_is_an_error():
    row, square = np.ones(2) / 2, np.eye(2)
    with pytest.raises(ValueError, match="moves must be probabilities"):
        ddlm.HiddenMarkov(row, 2 * square, square, 4)
    with pytest.raises(ValueError, match="one size"):
        ddlm.HiddenMarkov(row, square, np.eye(3), 4)
    with pytest.raises(ValueError, match="length = 0"):
        ddlm.HiddenMarkov(row, square, square, 0)
    with pytest.raises(ValueError, match=r"must be \(B, 4\)"):
        SHORT.log_p(jnp.zeros(4, jnp.int32))
    for process in (ddlm.MDLM(5), ddlm.Autoregressive(3)):
        with pytest.raises(ValueError, match=r"of 3 tokens, such as MDLM\(3\)"):
            SHORT.denoiser(process)
    with pytest.raises(ValueError, match="lag = 4 must be from 1 to 3"):
        SHORT.pairs(4)


@lru_cache
def truth():
    return entropy_of(LONG)[0]


def far(process, sampler):
    """The distances of samples of the sampler with the exact denoiser from the data."""
    model = LONG.denoiser(process)
    x = jax.jit(lambda key: sampler.sample(key, process, model, (ROWS, LENGTH)))(jax.random.key(0))
    return distances(LONG, np.asarray(x), truth())


@pytest.mark.parametrize(
    "sampler",
    [
        FirstHitting(),
        # The order looks at the state alone, so with the exact denoiser it does not matter.
        Unmask("confidence", Tokens(1)),
    ],
    ids=written,
)
def test_one_token_a_call_is_the_data(sampler):
    found = far(MASKED, sampler)
    assert abs(found["excess"]) < 4 * found["excess_error"] < 0.05
    assert found["pairs_1"] < 0.02 and found["pairs_8"] < 0.03


@pytest.mark.representatives(
    "MDLM(vocab_size=4)-Ancestral", "FirstHitting", "UDLM(vocab_size=4)-Posterior", "Tweedie"
)
@pytest.mark.parametrize(
    "process, sampler",
    [
        (MASKED, ddlm.Ancestral(STEPS)),
        (MASKED, FirstHitting(steps=STEPS)),
        (MASKED, ReMDM(STEPS, eta=0.0)),
        (MASKED, TwistedSMC(STEPS, particles=2)),
        (UNIFORM, ddlm.Ancestral(STEPS)),
        (UNIFORM, Posterior(STEPS)),
        (ddlm.SEDD(VOCAB), Tweedie(STEPS)),
    ],
    ids=written,
)
def test_exact_samplers_come_to_the_data_as_steps_grow(process, sampler):
    assert sampler.compatibility(process).kind == "exact"
    found = far(process, sampler)
    assert abs(found["excess"]) < 0.03 + 4 * found["excess_error"] < 0.08
    assert found["pairs_1"] < 0.03 and found["pairs_8"] < 0.04


def test_few_steps_and_a_preference_for_the_likely_are_seen():
    few = far(MASKED, ddlm.Ancestral(4))
    assert few["excess"] > 0.35 and few["pairs_1"] > 0.1
    drawn = far(MASKED, Unmask("drawn", Tokens(1)))
    assert drawn["excess"] < -0.1
    assert PathPlanning(16).compatibility(MASKED).kind == "approximate"
    assert far(MASKED, PathPlanning(16))["excess"] < -0.3


def test_the_study_writes_its_record_and_figure(tmp_path):
    options = ["--only", "BFN", "--steps", "2", "--samples", "8", "--length", "9"]
    assert cli.guarded("studies.hidden_markov", [*options, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "hidden-markov.json").read_text())
    names = [row["sampler"] for row in record["rows"]]
    assert names == ["Ancestral()", "Ancestral(greedy_tail=True)", "TwistedSMC()"]
    assert record["rows"][0]["calls"] == 2 and (tmp_path / "hidden-markov.png").stat().st_size > 0
