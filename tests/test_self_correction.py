"""Ends of ancestral sampling: a greedy last step, and corrections of the finished text."""

from itertools import product

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import move
from oracle import Toy, assert_distribution

from diffusion.gidd import GIDD
from diffusion.mdlm import MDLM
from diffusion.udlm import UDLM
from samplers.ancestral import Ancestral
from samplers.self_correction import SelfCorrection, corrected

GREEDY = Ancestral(steps=2, greedy_tail=True)


def test_the_last_step_is_greedy_under_masks(table):
    counts, _ = table.counts(GREEDY)
    expected = table.masked.argmax(table.masked.states_after([1.0, 0.5]))
    assert_distribution(counts, expected)
    assert np.abs(expected - table.masked.d3pm(2)).sum() > 0.1
    assert GREEDY.compatibility(MDLM(3)).kind == "approximate"


def test_the_last_step_takes_the_posteriors_likeliest_token_under_uniform_noise():
    toy, rows = Toy.named(), 20_000
    process, uniform = UDLM(3), enumeration.Uniform(toy)
    draw = jax.jit(lambda key: GREEDY.sample(key, process, toy.table(process), (rows, 3)))
    counts = np.bincount(toy.index(draw(jax.random.key(0))), minlength=len(toy.p))
    likeliest = np.eye(3)[uniform.posterior(0.5).argmax(-1)]
    expected = uniform.chain([1e-9, 0.5], uniform.mixed) @ move(likeliest, toy.states)
    assert_distribution(counts, expected)


def test_a_round_changes_the_surest_of_the_draws_that_differ():
    p, z = np.random.default_rng(0).dirichlet(np.ones(3), 3), (0, 2, 1)
    expected = {}
    for x in product(range(3), repeat=3):
        chance = np.prod([p[i, v] for i, v in enumerate(x)])
        differ = [i for i in (0, 1) if x[i] != z[i]]  # the third is not free
        after = list(z)
        if differ:
            place = max(differ, key=lambda i: p[i, x[i]])
            after[place] = x[place]
        expected[tuple(after)] = expected.get(tuple(after), 0) + chance
    rows = 20_000
    many = jnp.broadcast_to(jnp.array(z), (rows, 3))
    log_p = jnp.broadcast_to(jnp.asarray(np.log(p), jnp.float32) + 3.0, (rows, 3, 3))
    free = jnp.broadcast_to(jnp.array([True, True, False]), (rows, 3))
    drawn = np.asarray(corrected(jax.random.key(0), log_p, many, free)) @ [9, 3, 1]
    wanted = np.zeros(27)
    for state, chance in expected.items():
        wanted[np.dot(state, [9, 3, 1])] = chance
    assert_distribution(np.bincount(drawn, minlength=27), wanted)


SHORT = SelfCorrection(steps=2, rounds=12, patience=3)


def fixed(text):
    """A network that is sure of one text, whatever it sees."""
    return lambda z, t: 5 * jax.nn.one_hot(jnp.broadcast_to(jnp.array(text), z.shape), 4)


@pytest.mark.parametrize("process", [UDLM(4), GIDD(4, 0.2)])
def test_texts_become_what_the_network_is_sure_of_and_rows_end_by_themselves(process):
    text, known = [3, 1, 0, 2, 2], jnp.tile(jnp.array([[-1, 2, -1, -1, -1]]), (6, 1))
    keys = jax.random.split(jax.random.key(0), 6)
    run = jax.jit(lambda keys, known: SHORT.run(keys, process, fixed(text), (len(keys), 5), known))
    x0, calls, _ = run(keys, known)
    assert (np.asarray(x0) == [3, 2, 0, 2, 2]).all()
    # A better text at the first look, as many looks as were wrong, and then patience.
    wrong = calls - 2 - 1 - SHORT.patience
    assert wrong.min() >= 0 and wrong.max() <= 4 and calls.max() > calls.min()


def test_a_row_that_has_ended_stays_whatever_its_neighbours_do():
    def restless(z, t):
        return 0.02 * fixed([3, 1, 0, 2, 2])(z, t)

    keys = jax.random.split(jax.random.key(0), 6)
    run = jax.jit(lambda keys: SHORT.run(keys, UDLM(4), restless, (len(keys), 5)))
    x0, calls, _ = run(keys)
    first = int(calls.argmin())
    alone = run(keys[first : first + 1])
    assert calls[first] < calls.max()
    assert (alone.x0[0] == x0[first]).all() and alone.calls[0] == calls[first]


def test_the_network_is_asked_at_one_time_for_so_many_rounds_at_most():
    seen = []

    def undecided(z, t):
        jax.debug.callback(lambda t: seen.append(float(t[0, 0])), t)
        return jnp.stack([z == v for v in range(4)], -1) * 1.0  # likes what is there, more and more

    sampler = SelfCorrection(steps=1, rounds=2, patience=9, time=0.25)
    calls = sampler.run(jax.random.key(0), UDLM(4), undecided, (2, 5)).calls
    jax.effects_barrier()
    assert seen == [1.0, 0.25, 0.25] and calls.tolist() == [3, 3]


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(rounds=0), "SelfCorrection.rounds = 0 must be at least 1"),
        (dict(patience=0), "SelfCorrection.patience = 0"),
        (dict(temperature=0.0), "SelfCorrection.temperature = 0.0 must be positive"),
        (dict(time=0.0), r"SelfCorrection.time = 0.0 is outside \(0, 1\]"),
    ],
)
def test_what_cannot_be_is_told(settings, words):
    with pytest.raises(ValueError, match=words):
        SelfCorrection(**settings)
