"""Psi-samplers, by enumeration of what a step does."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import move
from oracle import Toy, assert_distribution

from diffusion.mdlm import MDLM
from diffusion.udlm import UDLM
from samplers.psi import Psi


def distribution(toy, process, sampler):
    """(N,) the exact distribution of its samples, its steps enumerated."""
    states, size = toy.all_states(process), process.num_states
    each = jnp.arange(size)[:, None]
    p = start(process, states)
    times = np.asarray(sampler.times(), np.float64)
    for t, s in itertools.pairwise(times):
        many = [jnp.full((len(states), 1), x) for x in (t, s)]
        z, one = jnp.asarray(states), jnp.full((size, 1), s)
        log_p0 = process.predict(toy.denoiser(process)(z, many[0]), z, many[0])
        if s == 0:
            return p @ move(np.nan_to_num(np.exp(np.asarray(log_p0))), toy.states)
        bridge = np.exp(np.asarray(process.log_posterior(log_p0, z, *many)))
        to = np.exp(np.asarray(process.log_likelihood(each, one)))[:, 0]  # (S, V)
        kappa = sampler.kappa if sampler.interval[0] <= t <= sampler.interval[1] else 1
        step = kappa * bridge + (1 - kappa) * np.exp(np.asarray(log_p0)) @ to.T
        p = p @ move(np.nan_to_num(step), states)  # nan: of states that are not reached


def start(process, states):
    if process.space.mask is None:
        return np.full(len(states), 1 / len(states))
    return (states == process.space.mask).all(1).astype(float)


@pytest.mark.parametrize("process", [MDLM(3), UDLM(3)], ids=lambda p: type(p).__name__)
def test_samples_have_the_distribution_of_the_enumerated_steps(process):
    toy, rows = Toy.named(), 20_000
    sampler = Psi(3, kappa=0.2, interval=(0.5, 0.8))
    draw = jax.jit(lambda key: sampler.sample(key, process, toy.table(process), (rows, 3)))
    counts = np.bincount(toy.index(draw(jax.random.key(0))), minlength=len(toy.p))
    expected = distribution(toy, process, sampler)
    assert_distribution(counts, expected)
    ancestral = distribution(toy, process, Psi(3, kappa=1.0))
    outside = distribution(toy, process, Psi(3, kappa=0.2, interval=(0.7, 0.9)))
    np.testing.assert_allclose(outside, ancestral, atol=1e-6)
    assert np.abs(expected - ancestral).sum() > 0.01


@pytest.mark.parametrize("process", [MDLM(3), UDLM(3)], ids=lambda p: type(p).__name__)
def test_with_the_exact_denoiser_ancestral_sampling_is_best(process, x64):
    """What is noised anew mends mistakes of a network; here there are none, and it adds draws apart."""
    toy = Toy.named()
    distributions = [distribution(toy, process, Psi(16, kappa=kappa)) for kappa in (1.0, 0.7, 0.0)]
    best, some, all_anew = [np.abs(p - toy.p).sum() for p in distributions]
    assert best < 0.8 * some < 0.8 * 0.8 * all_anew


def test_settings_and_kinds():
    assert Psi(kappa=1.0).compatibility(MDLM(3)).kind == "exact"
    assert Psi().compatibility(UDLM(3)).kind == "approximate"
    for wrong in ({"kappa": 1.1}, {"kappa": float("nan")}, {"interval": (0.5, 0.5)}):
        with pytest.raises(ValueError, match=r"Psi\.(kappa|interval)"):
            Psi(**wrong)
