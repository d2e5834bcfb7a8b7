"""Samplers that ask the network only where something is revealed: first hitting, cached ancestral."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import ROWS, TOYS, Table, as_array, assert_distribution, reveal

from diffusion.mdlm import MDLM
from diffusion.schedules import Cosine, Linear, RescaledSchedule
from samplers.ancestral import Ancestral
from samplers.first_hitting import FirstHitting


@pytest.mark.parametrize("schedule", [Cosine(), RescaledSchedule(Linear(), 0.05)])
def test_first_hitting_is_the_distribution_of_the_data_in_one_call_a_token(table, schedule):
    counts, calls = table.counts(FirstHitting(), MDLM(table.size, schedule))
    # A start with random tokens in place of masks (alpha(1) > 0) is the model's own, not the data's.
    loose = schedule == RescaledSchedule(Linear(), 0.05)
    assert_distribution(counts, table.toy.p, bias=0.05 * table.length if loose else 0)
    assert calls.max() == table.length and (loose or calls.min() == table.length)


@pytest.mark.parametrize("name", TOYS)
def test_first_hitting_on_a_grid_is_ancestral_sampling(name):
    table = Table(name)
    for T in (4, 16) if name == "V3L3" else (4,):
        counts, calls = table.counts(FirstHitting(steps=T))
        assert_distribution(counts, table.masked.d3pm(T))
        assert calls.max() <= min(T, table.length)
        # The number of steps, out of T, in which at least one of L positions is revealed.
        expected = T * (1 - (1 - 1 / T) ** table.length)
        assert abs(calls.mean() - expected) < 5 * calls.std() / math.sqrt(ROWS) + 1e-3


def test_first_hitting_on_a_grid_is_ancestral_sampling_with_loose_ends_too(table):
    """Where alpha(1) > 0, a start has tokens, and what is masked then is revealed at times below 1."""
    process = MDLM(table.size, RescaledSchedule(Linear(), 0.4))
    ours, _ = table.counts(FirstHitting(steps=3), process)
    ancestral, _ = table.counts(Ancestral(3), process, key=1)
    error = np.sqrt((ours + ancestral + 1) / ROWS**2)
    assert np.max(np.abs(ours - ancestral) / ROWS / error) < 5


def test_first_hitting_asks_the_network_at_the_times_of_its_reveals(table):
    """The times are those of the schedule: the latest of L uniforms, and so on."""
    process, times = MDLM(table.size, Cosine()), []

    def model(z, t):
        jax.debug.callback(lambda t: times.append(np.asarray(t)), t, ordered=True)
        return table.model(z, t)

    FirstHitting().sample(jax.random.key(0), process, model, (4000, table.length))
    u = np.exp(np.asarray(process.schedule.log1m_alpha(jnp.asarray(times))))[..., 0]
    for number, got in enumerate(u[: table.length]):
        rank = table.length - number  # of the order statistics of L uniforms
        assert abs(got.mean() - rank / (table.length + 1)) < 0.02


def test_first_hitting_in_groups_draws_a_group_apart(table):
    """Two of three tokens from the marginals, then the third: by enumeration over the pairs."""
    counts, calls = table.counts(FirstHitting(group=2))
    distribution = _grouped_distribution(table, 2)
    assert_distribution(counts, distribution)
    assert calls.max() == 2 and np.abs(distribution - table.toy.p).sum() > 0.05


def _grouped_distribution(table, group):
    distribution = {tuple([table.size] * table.length): 1.0}
    while any(table.size in state for state in distribution):
        new = {}
        for state, weight in distribution.items():
            masked = [i for i, v in enumerate(state) if v == table.size]
            sets = list(itertools.combinations(masked, min(group, len(masked))))
            for chosen in sets:
                reveal(table, new, state, chosen, weight / len(sets))
        distribution = new
    return as_array(table, distribution)


def test_cached_ancestral_sampling_is_the_same_with_fewer_calls(table):
    process, keys = MDLM(table.size), jax.random.split(jax.random.key(0), 2)
    plain, cached = (
        Ancestral(200, cached=c).run(keys, process, table.model, (2, table.length)) for c in (0, 1)
    )
    np.testing.assert_array_equal(plain.x0, cached.x0)
    assert (plain.calls == 200).all() and (cached.calls <= 1 + 2 * table.length).all()
    known = jnp.array([[1, -1, -1], [-1, 0, -1]])
    plain, cached = (
        Ancestral(50, cached=c).run(keys, process, table.model, (2, table.length), known)
        for c in (0, 1)
    )
    np.testing.assert_array_equal(plain.x0, cached.x0)
