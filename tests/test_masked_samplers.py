"""Samplers of masked processes on enumerable toys: exact distributions, or enumerations of their rules.

The exact denoiser of a masked process does not depend on time, so it is a table over the states here.
"""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import official_grid
from oracle import ROWS, STEPS, TOYS, Table, assert_distribution, together

from diffusion.mdlm import MDLM
from diffusion.schedules import Linear
from diffusion.sedd import SEDD
from samplers.ancestral import Ancestral
from samplers.euler import Euler, TauLeaping
from samplers.first_hitting import FirstHitting
from samplers.logits_processor import LogitsProcessor
from samplers.path_planning import PathPlanning
from samplers.posterior import Posterior
from samplers.predictor_corrector import PredictorCorrector
from samplers.remask import ReMDM
from samplers.sliding_window import SlidingWindow
from samplers.unmask import EntropyBudget, Factor, Steps, Threshold, Tokens, Unmask


class OfficialGrid:
    """The official T steps from 1 to 1e-5, and the noise removal that follows as a step to 0."""

    def times(self):
        return jnp.append(jnp.linspace(1, 1e-5, self.steps), 0.0)


class OfficialEuler(OfficialGrid, Euler):
    pass


@pytest.mark.representatives("V3L3")
@pytest.mark.parametrize("name", TOYS)
def test_linear_euler_steps_are_the_published_ones(name):
    table = Table(name)
    process = SEDD(table.size, schedule=Linear(1e-3), head="posterior")
    for T in STEPS[name]:
        counts, _ = table.counts(OfficialEuler(T + 1, rule="linear"), process)
        assert_distribution(counts, table.masked.sedd_euler(T), bias=1e-4)


class StatesOfAncestral(Ancestral):
    """What stands in the state at t = 1e-5, masks among it."""

    def times(self):
        return jnp.linspace(1, 1e-5, self.steps + 1)

    def step(self, key, process, model, z, t, s):
        z_s, _ = super().step(key, process, model, z, t, s)
        return z_s, z_s


@pytest.mark.parametrize("name, eps", [*((name, 1e-3) for name in TOYS), ("V3L3", 0.0)])
def test_distribution_of_the_states_is_mdlms(name, eps):
    """The caching sampler of the official code leaves the eps of the schedule out."""
    table = Table(name)
    for T in STEPS[name]:
        process = MDLM(table.size, Linear(eps))
        shape = (ROWS, table.length)
        draw = jax.jit(
            lambda k, p=process, T=T, shape=shape: StatesOfAncestral(T).sample(
                k, p, table.model, shape
            )
        )
        z = np.asarray(draw(jax.random.key(0)))
        counts = np.bincount(z @ table.base, minlength=len(table.states))
        # We start from a share of eps random tokens, the official code from masks alone.
        exact = table.masked.states_after(official_grid(T))
        assert_distribution(counts, exact, bias=2 * eps * table.length)


@pytest.mark.parametrize("sampler", [Euler(4), TauLeaping(4)])
def test_distribution_of_an_euler_step_is_the_enumerated_one(table, sampler):
    """The reverse rate of a masked position is -alpha' / (1 - alpha) = 1 / t of a linear schedule."""
    distribution = np.zeros(len(table.states))
    distribution[-1] = 1
    for k in range(4, 0, -1):
        total = (1 / 4) / (k / 4)
        leave = 1 - math.exp(-total) if isinstance(sampler, Euler) else total * math.exp(-total)
        if k == 1:
            leave = 1  # the rest is drawn from p(x0 | z_t)
        new = np.zeros_like(distribution)
        for z, weight in zip(table.states, distribution, strict=True):
            rows = np.eye(table.size + 1)[z]
            for i in np.flatnonzero(z == table.size):
                rows[i] = [*(leave * table.p0[table.number(z)][i]), 1 - leave]
            new += weight * together(rows)
        distribution = new
    data = np.array([table.number(x) for x in table.toy.states])
    assert_distribution(table.counts(sampler)[0], distribution[data], bias=1e-5)


@pytest.mark.parametrize(
    "sampler, leave",
    [
        (Euler(4), 1 - math.exp(-0.5)),
        (Euler(4, rule="linear"), 0.5),
        (TauLeaping(4), 0.5 * math.exp(-0.5)),
    ],
)
def test_a_position_leaves_in_a_step_as_its_rule_says(table, sampler, leave):
    """From t = 1/2 to 1/4 the rate 1 / t stays 2, and rate times dt is 1/2."""
    process, t = MDLM(table.size), jnp.full((ROWS, 1), 0.5)
    z = jnp.full((ROWS, table.length), table.size)
    new, _ = jax.jit(lambda k: sampler.step(k, process, table.model, z, t, t / 2))(
        jax.random.key(0)
    )
    distribution = [*(leave * table.p0[-1, 0]), 1 - leave]
    assert_distribution(np.bincount(new[:, 0], minlength=table.size + 1), np.array(distribution))


@pytest.mark.parametrize("sampler", [FirstHitting(), Unmask("random", Tokens(1))])
def test_infilling_follows_the_conditional_distribution_exactly(table, sampler):
    agrees = table.toy.states[:, 1] == 2
    conditional = np.where(agrees, table.toy.p, 0) / table.toy.p[agrees].sum()
    assert_distribution(table.counts(sampler, known=[-1, 2, -1])[0], conditional)


def test_windows_are_a_chain_of_conditional_distributions():
    """SlidingWindow of two tokens, one new token each time: p(x1, x2) p(x3 | x2) p(x4 | x3)."""
    table = Table("V4L2")
    sampler, V = SlidingWindow(FirstHitting(), window=2, stride=1), table.size
    draw = jax.jit(lambda k: sampler.run(k, MDLM(V), table.model, (ROWS, 4)))
    x0, calls, _ = draw(jax.random.key(0))
    p = table.toy.p.reshape(V, V)
    after = p / p.sum(1, keepdims=True)
    distribution = np.einsum("ab,bc,cd->abcd", p, after, after).reshape(-1)
    counts = np.bincount(np.asarray(x0) @ V ** np.arange(4)[::-1], minlength=V**4)
    assert_distribution(counts, distribution)
    assert (calls == 4).all() and sampler.calls(MDLM(V), 4) == 6
    known = jnp.broadcast_to(jnp.array([-1, -1, 2, -1]), (50, 4))
    assert (
        sampler.sample(jax.random.key(0), MDLM(V), table.model, (50, 4), known)[:, 2] == 2
    ).all()


def test_frames_tell_what_happened(table):
    process = MDLM(table.size)
    result = FirstHitting().run(jax.random.key(3), process, table.model, (50, 3), trace=True)
    tokens, probability, times = (
        np.asarray(a)
        for a in (result.frames.tokens, result.frames.probability, result.frames.times)
    )
    assert (tokens[0] == table.size).all() and (tokens[-1] == result.x0).all()
    assert (np.isnan(probability) == (tokens == table.size)).all()
    assert (np.diff(times, axis=0) <= 0).all() and (times[-1] == 0).all()
    for k in range(1, 4):
        for row in range(50):
            for i in np.flatnonzero(tokens[k, row] != tokens[k - 1, row]):
                p = table.p0[table.number(tokens[k - 1, row])][i, tokens[k, row, i]]
                assert probability[k, row, i] == pytest.approx(p, rel=1e-4)


@pytest.mark.parametrize("grid", ["uniform", "cosine", "fitted"])
def test_a_fitted_grid_spends_equal_shares_of_the_loss(grid):
    information = (1.0, 2.0, 5.0, 2.0)
    times = np.asarray(Ancestral(10, grid, information).times(), float)
    assert times[0] == 1 and times[-1] == 0 and (np.diff(times) < 0).all()
    rate = lambda t: np.repeat(information, 25_000)[np.minimum((t * 100_000).astype(int), 99_999)]  # noqa: E731
    t = (np.arange(100_000) + 0.5) / 100_000
    shares = np.histogram(t, times[::-1], weights=rate(t))[0] / rate(t).sum()
    assert (np.abs(shares - 0.1) < 1e-4).all() == (grid == "fitted")


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda: FirstHitting(group=0), "group"),
        (lambda: FirstHitting(group=2, steps=4), "steps"),
        (lambda: Unmask("entropy", Threshold(0.5)), "Threshold"),
        (lambda: Unmask("margin", noise=1.0), "noise"),
        (lambda: Unmask("drawn", noise=math.nan), "noise"),
        (lambda: PathPlanning(eta=math.inf), "eta"),
        (lambda: Threshold(0.0), "probability"),
        (lambda: Factor(0.0), "factor"),
        (lambda: Unmask("entropy", Factor()), "a Factor goes with"),
        (lambda: EntropyBudget(-1.0), "nats"),
        (lambda: Tokens(0), "num"),
        (lambda: Steps(0), "steps"),
        (lambda: ReMDM(eta=2.0), "eta"),
        (lambda: ReMDM(loop=0.5, grid="cosine"), "grid"),
        (lambda: PathPlanning(eta=-1.0), "eta"),
        (lambda: PredictorCorrector(positions=0), "positions"),
        (lambda: SlidingWindow(stride=0), "stride"),
        (lambda: Ancestral(grid="fitted"), "information"),
        (lambda: LogitsProcessor(top_p=0.0), "top_p"),
        (lambda: LogitsProcessor(temperature=-1.0), "temperature"),
    ],
)
def test_impossible_samplers_are_rejected(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_every_sampler_takes_the_same_logits_processor(table):
    """A sampler with a logits processor is the sampler of a network with that distribution."""
    logits_processor = LogitsProcessor(temperature=0.5, top_k=2)
    process = MDLM(table.size)
    modified = lambda z, t: logits_processor(process.predict(table.model(z, t), z, t))  # noqa: E731
    for sampler in (
        Ancestral(4),
        Posterior(4),
        FirstHitting(),
        ReMDM(4, eta=0.3),
        Unmask("random"),
    ):
        own = replace(sampler, logits_processor=logits_processor)
        both = jax.jit(
            lambda key, pairs=((own, table.model), (sampler, modified)): [
                s.sample(key, process, model, (500, 3)) for s, model in pairs
            ]
        )
        np.testing.assert_array_equal(*both(jax.random.key(0)))
