"""Loops of one's own over `GridSampler.step`: the samples of `sample`, by any function as a network."""

from dataclasses import is_dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddlm
from diffusion.gaussian import GivenEmbeddings
from diffusion.linear_flow import LinearFlow
from diffusion.log_snr import LinearLogSNR
from diffusion.mdlm import MDLM
from diffusion.plaid import Plaid
from diffusion.random import fold_in, split
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM
from experiments.serialization import decode, encode
from samplers.ancestral import Ancestral
from samplers.euler import Euler, TauLeaping
from samplers.logits_processor import LogitsProcessor
from samplers.mean_ancestral import MeanAncestral
from samplers.ode import ODE
from samplers.posterior import Posterior
from samplers.predictor_corrector import PredictorCorrector
from samplers.psi import Psi
from samplers.sampler import GridSampler, Sampler, Stepwise
from samplers.tweedie import Tweedie
from samplers.twisted_smc import TwistedSMC

V, SHAPE = 5, (3, 7)
CORNERS = GivenEmbeddings(tuple(map(tuple, np.eye(V).tolist())))
NORMAL = Plaid(V, CORNERS, LinearLogSNR(), self_conditioning=0)
CASES = {
    "ancestral": (Ancestral(6), MDLM(V)),
    "ancestral of uniform noise": (Ancestral(6, grid="cosine"), UDLM(V)),
    "cached": (Ancestral(6, cached=True), MDLM(V)),
    "posterior": (Posterior(6), MDLM(V)),
    "euler": (Euler(6), UDLM(V)),
    "tau leaping": (TauLeaping(6), MDLM(V)),
    "tweedie": (Tweedie(6), SEDD(V)),
    "ode": (ODE(6), LinearFlow(V)),
    "mean ancestral": (MeanAncestral(6), NORMAL),
    "psi": (Psi(6, interval=(0.3, 0.8)), UDLM(V)),
}
cases = pytest.mark.parametrize("name", CASES)
TABLE = np.random.default_rng(0).normal(size=(V + 1, V)).astype(np.float32)


def network(process, array):
    """A bigram network, by the functions of `array`: jax.numpy or numpy."""

    def model(z, t):
        z = array.asarray(z)
        if z.ndim == 3:
            return array.roll(z, 1, axis=1) @ array.asarray(TABLE[:V])
        return array.asarray(TABLE)[array.roll(z, 1, axis=1)]

    return model


def by_hand(sampler, process, model, key, known=None):
    """The loop of the docstring of `GridSampler.step`."""
    key_prior, key_steps = split(key)
    z, times = process.prior(key_prior, SHAPE), sampler.times()
    for n in range(sampler.steps):
        z = process.space.clamp(z, known)
        t, s = (jnp.full((SHAPE[0], 1), times[k]) for k in (n, n + 1))
        z, x0 = sampler.step(fold_in(key_steps, n), process, model, z, t, s)
        assert z.shape[:2] == x0.shape == SHAPE
    return x0


@pytest.mark.representatives("ancestral", "tweedie", "ode", "cached")
@cases
def test_a_loop_of_ones_own_gives_the_samples_of_the_sampler(name):
    sampler, process = CASES[name]
    model, keys = network(process, jnp), jax.random.split(jax.random.key(2), SHAPE[0])
    expected = sampler.sample(keys, process, model, SHAPE)
    np.testing.assert_array_equal(by_hand(sampler, process, model, keys), expected)


@pytest.mark.representatives("cached", "posterior", "ode", "psi")
@cases
def test_a_network_of_numpy_outside_of_jit_drives_it(name):
    sampler, process = CASES[name]
    key = jax.random.key(3)
    expected = sampler.sample(key, process, network(process, jnp), SHAPE)
    found = by_hand(sampler, process, network(process, np), key)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["ancestral", "posterior"])
def test_known_tokens_and_logits_processors_act_by_hand_too(name):
    sampler, process = CASES[name]
    sampler = replace(sampler, logits_processor=LogitsProcessor(temperature=0.7, top_k=3))
    known = jnp.full(SHAPE, -1).at[:, 2].set(4)
    model, key = network(process, jnp), jax.random.key(4)
    expected = sampler.sample(key, process, model, SHAPE, known)
    found = by_hand(sampler, process, sampler.modified(process, model), key, known)
    np.testing.assert_array_equal(jnp.where(known >= 0, known, found), expected)


@pytest.mark.parametrize(
    "old, sampler",
    [("corrected.Corrected", PredictorCorrector(4)), ("resampled.Resampled", TwistedSMC(4))],
)
def test_stored_samplers_with_the_setting_of_a_cache_are_read(old, sampler):
    """Which they had from `Ancestral`, and it was always off."""
    stored = encode(sampler) | {"_type": f"samplers.{old}", "cached": False}
    assert decode(stored) == sampler


def test_samplers_that_have_a_step_have_no_other_way_to_go_on():
    """Of one that goes by more than z and two times, a step would promise other samples."""
    parts = [part for part in vars(ddlm).values() if isinstance(part, type)]
    samplers = [
        p for p in parts if issubclass(p, Sampler) and is_dataclass(p) and p is not GridSampler
    ]
    stepping = {p for p in samplers if issubclass(p, GridSampler)}
    assert stepping == {type(sampler) for sampler, _ in CASES.values()}
    assert not [p for p in set(samplers) - stepping if hasattr(p, "step")]
    for part in stepping - {Ancestral}:  # which calls the network less often for the same samples
        assert part.advance is GridSampler.advance and part.run is Stepwise.run
    with pytest.raises(TypeError, match="abstract"):
        type("Stepless", (GridSampler,), {"compatibility": Ancestral.compatibility})()
