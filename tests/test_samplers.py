"""Samplers against exact distributions by enumeration. One row per sampler; statistics state their
tolerance."""

from dataclasses import dataclass

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import STEPS, TOYS, Toy, assert_distribution, complete

from diffusion.betas import LinearBetas, MutualInformation
from diffusion.d3pm import D3PM
from diffusion.dense import BandDiagonal, Gaussian, Masked, NearestNeighbour
from diffusion.genmd4 import GenMD4
from diffusion.gidd import GIDD
from diffusion.kernels import Absorbing, Uniform
from diffusion.mdlm import MDLM
from diffusion.random import categorical, uniform
from diffusion.schedules import Geometric, Linear, RescaledSchedule
from diffusion.sedd import SEDD
from diffusion.spindle import Spindle
from diffusion.udlm import UDLM
from samplers.ancestral import Ancestral
from samplers.euler import Euler
from samplers.tweedie import Tweedie

ROWS, FEW = 40_000, 20_000


@dataclass(frozen=True)
class OfficialGrid(Ancestral):
    """The official T steps from 1 to 1e-5, and the noise removal that follows as a step to 0."""

    def times(self):
        return jnp.append(jnp.linspace(1, 1e-5, self.steps), 0.0)


def distribution_of(toy, process, sampler, key=0, rows=ROWS, **options):
    draw = jax.jit(
        lambda key: sampler.sample(key, process, toy.table(process), (rows, toy.length), **options)
    )
    return np.bincount(toy.index(draw(jax.random.key(key))), minlength=len(toy.p))


@pytest.mark.representatives("V3L3")
@pytest.mark.parametrize("name", TOYS)
def test_ancestral_distribution_on_the_official_grid(name):
    toy = Toy.named(name)
    for T in STEPS[name]:
        counts = distribution_of(toy, MDLM(toy.vocab_size), OfficialGrid(T + 1))
        assert_distribution(counts, enumeration.Masked(toy).sedd_tweedie(T))


@pytest.mark.parametrize("name", TOYS)
def test_ancestral_distribution_on_the_uniform_grid(name):
    toy = Toy.named(name)
    for T in STEPS[name]:
        counts = distribution_of(toy, MDLM(toy.vocab_size), Ancestral(T))
        assert_distribution(counts, enumeration.Masked(toy).d3pm(T))


@dataclass(frozen=True)
class WithoutDenoising(Ancestral):
    """What stands in the state after the last step of another sampler, to t = 1e-5, is the sample."""

    def times(self):
        return jnp.linspace(1, 1e-5, self.steps + 1)

    def step(self, key, process, model, z, t, s):
        z_s, _ = Ancestral(self.steps).step(key, process, model, z, t, s)
        return z_s, z_s


@dataclass(frozen=True)
class OfficialTweedie(Tweedie):
    times = OfficialGrid.times


@pytest.mark.parametrize("fine", [1, 4])  # T steps of a process that has T, or 4 T
def test_distribution_of_d3pm_uniform_on_its_grid_and_on_a_coarser_one(fine):
    toy = Toy.named()
    for T in (4, 16):
        process = D3PM(toy.vocab_size, Uniform(), num_steps=T * fine)
        counts = distribution_of(toy, process, Ancestral(T), rows=FEW)
        assert_distribution(counts, enumeration.Uniform(toy).d3pm(T))


@pytest.mark.parametrize("head", ["leave_one_out", "posterior"])
def test_distribution_of_udlm_is_that_of_the_leave_one_out_reading(head):
    toy = Toy.named()
    process, exact = UDLM(toy.vocab_size, Linear(1e-3), head=head), enumeration.Uniform(toy)
    for T in (4, 16):
        counts = distribution_of(toy, process, WithoutDenoising(T), rows=FEW)
        assert_distribution(counts, exact.udlm(T, "leave_one_out"), bias=1e-6)
        # The official code puts the posterior there, were it trained to hold it: another distribution.
        other = exact.udlm(T, "posterior")
        assert np.abs(counts / FEW - other).sum() > 0.05


@pytest.mark.representatives("uniform-score")
@pytest.mark.parametrize("head", ["score", "leave_one_out"])
@pytest.mark.parametrize("graph", ["absorb", "uniform"])
def test_tweedie_distribution_is_sedds(graph, head):
    toy = Toy.named()
    kernel, schedule, exact = {
        "absorb": (Absorbing(), Linear(1e-3), enumeration.Masked(toy)),
        "uniform": (Uniform(), Geometric(1e-3, 6.0), enumeration.Uniform(toy)),
    }[graph]
    process = SEDD(toy.vocab_size, kernel, schedule, head=head)
    more = [(16, OfficialTweedie)] if head == "score" else []
    for T, make in [(4, OfficialTweedie), (4, OfficialGrid), *more]:
        counts = distribution_of(toy, process, make(T + 1), rows=FEW)
        assert_distribution(counts, exact.sedd_tweedie(T), bias=1e-5)


@dataclass(frozen=True)
class OfficialEuler(Euler):
    times = OfficialGrid.times


def test_linear_euler_distribution_on_the_uniform_graph_is_sedds():
    toy = Toy.named()
    process = SEDD(toy.vocab_size, Uniform(), Geometric(1e-3, 6.0))
    for T in (4, 16):
        counts = distribution_of(toy, process, OfficialEuler(T + 1, rule="linear"), rows=FEW)
        assert_distribution(counts, enumeration.Uniform(toy).sedd_euler(T), bias=1e-5)


NEW = {
    "gaussian": D3PM(kernel=Gaussian(), schedule=LinearBetas(0.01, 1.0), num_steps=60),
    "nearest": D3PM(kernel=NearestNeighbour(1), schedule=MutualInformation(), num_steps=60),
    "masked": D3PM(kernel=Masked(BandDiagonal(1)), schedule=LinearBetas(0.05, 0.05), num_steps=60),
    "genmd4": GenMD4(initial_power=2.0),
    "spindle": Spindle(),
    "gidd": GIDD(),
}


@pytest.mark.representatives("masked", "gidd")
@pytest.mark.parametrize("name", NEW)
@pytest.mark.usefixtures("optimized")
def test_distribution_of_every_other_process_approaches_the_data(name):
    """Total variation to the data's distribution: falls with the number of steps, to the noise of
    counting."""
    toy = Toy.named("V4L2")
    process = complete(NEW[name], toy.vocab_size)
    distance = [
        np.abs(distribution_of(toy, process, Ancestral(T), rows=5_000) / 5_000 - toy.p).sum() / 2
        for T in (2, 60)
    ]
    noise = np.sqrt(toy.p / 5_000).sum()
    assert distance[0] > 2 * distance[1] and distance[1] < noise + 0.01


@pytest.mark.representatives("V3L3")
@pytest.mark.parametrize("name, grid", [("V3L3", "uniform"), *((name, "cosine") for name in TOYS)])
def test_ancestral_distribution_is_md4s(name, grid):
    toy = Toy.named(name)
    process = MDLM(toy.vocab_size, RescaledSchedule(Linear(), 1e-4))
    for T in STEPS[name]:
        # alpha(1) = 1e-4: we start from that share of random tokens, MD4 from masks alone, and MD4
        # decodes what is masked at the end by argmax. Both change at most 2e-4 per position.
        assert_distribution(
            distribution_of(toy, process, Ancestral(T, grid)),
            enumeration.Masked(toy).md4(T, grid),
            bias=2e-4 * toy.length,
        )


@pytest.mark.usefixtures("optimized")
def test_distribution_approaches_the_data_with_more_steps():
    toy = Toy.named()
    distance = [
        np.abs(distribution_of(toy, MDLM(toy.vocab_size), Ancestral(T)) / ROWS - toy.p).sum() / 2
        for T in (1, 4, 64)
    ]
    noise = np.sqrt(toy.p / ROWS).sum()  # above the expected distance at sampling noise
    assert distance[0] > distance[1] > distance[2] and distance[2] < noise + 0.02


@pytest.mark.usefixtures("optimized")
def test_known_tokens_never_change_and_condition_exactly():
    toy = Toy.named()
    process, steps = MDLM(toy.vocab_size), 64
    known = jnp.broadcast_to(np.array([-1, 2, -1]), (ROWS, 3))
    counts = distribution_of(toy, process, Ancestral(steps), known=known)
    agrees = toy.states[:, 1] == 2
    assert counts[~agrees].sum() == 0
    conditional = np.where(agrees, toy.p, 0) / toy.p[agrees].sum()
    # The blanks are drawn jointly right unless one step reveals both, which has probability 1 / steps.
    assert_distribution(counts, conditional, bias=1 / steps)


def test_rare_categorical_events_occur_at_their_rate():
    tail = 2048
    log_p = jnp.log(jnp.append(jnp.full(tail, np.exp(-17.0)), 1 - tail * np.exp(-17.0)))
    draws = jax.jit(
        lambda k: (categorical(k, jnp.broadcast_to(log_p, (512, 512, tail + 1))) < tail).sum()
    )
    total = sum(int(draws(jax.random.key(k))) for k in range(2))
    # Each of the 2048 events has p = e^-17; float32 Gumbel noise draws an eighth of them.
    expected = 2 * 512 * 512 * tail * np.exp(-17.0)
    assert abs(total - expected) < 5 * np.sqrt(expected) and expected > 40


@pytest.mark.representatives()
def test_draws_from_a_large_vocabulary_follow_its_distribution():
    """Cut into parts of 71, of which the last is short; some values impossible, some rare."""
    size, rows = 5000, 32
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(size, 0.3))
    p[::7], p[100:300] = 0, 0
    p[-3:] = p.sum() / 10  # in the last part
    p /= p.sum()
    with np.errstate(divide="ignore"):
        log_p = jnp.log(jnp.asarray(p, jnp.float32))
    draw = jax.jit(lambda k: categorical(k, jnp.broadcast_to(log_p, (rows, rows, size))))
    counts = sum(
        np.bincount(np.asarray(draw(jax.random.key(k))).reshape(-1), minlength=size)
        for k in range(8)
    )
    assert counts[p == 0].sum() == 0
    assert_distribution(counts.reshape(100, -1).sum(1), p.reshape(100, -1).sum(1))
    assert_distribution(counts[-3:], p[-3:] / p[-3:].sum())


def test_uniform_is_open_and_fine_near_zero():
    draws = uniform(jax.random.key(0), (1 << 11, 1 << 12))
    assert draws.min() > 0 and draws.max() < 1
    for p in (1e-3, 1e-5, 2.0**-20):
        below = float((draws < p).sum())
        assert abs(below - draws.size * p) < 5 * np.sqrt(draws.size * p)


@pytest.mark.parametrize("wrong", [dict(steps=0), dict(grid="random")])
@pytest.mark.parametrize("sampler", [Ancestral, Tweedie])
def test_impossible_samplers_are_rejected(sampler, wrong):
    with pytest.raises(ValueError, match=sampler.__name__):
        sampler(**wrong)
