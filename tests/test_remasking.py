"""Samplers that mask again or draw anew what was revealed: ReMDM, path planning, and correctors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import ROWS, assert_distribution, together

from diffusion.mdlm import MDLM
from samplers.ancestral import Ancestral
from samplers.path_planning import PathPlanning
from samplers.predictor_corrector import PredictorCorrector
from samplers.remask import ReMDM
from samplers.sampler import State


@pytest.mark.parametrize("rule, eta", [("cap", 0.1), ("rescale", 0.5), ("cap", 0.0)])
def test_distribution_of_remdm_is_the_enumerated_one(table, rule, eta):
    T = 4
    counts, _ = table.counts(ReMDM(T, rule=rule, eta=eta))
    distribution = np.zeros(len(table.states))
    distribution[-1] = 1
    for k in range(T, 0, -1):
        a_t, a_s = 1 - k / T, 1 - (k - 1) / T
        most = min(1, (1 - a_s) / a_t) if a_t else 1
        sigma = min(eta, most) if rule == "cap" else eta * most
        reveal = (a_s - (1 - sigma) * a_t) / (1 - a_t)
        new = np.zeros_like(distribution)
        for z, weight in zip(table.states, distribution, strict=True):
            if weight == 0:
                continue
            rows = np.zeros((table.length, table.size + 1))
            for i, v in enumerate(z):
                if v == table.size:
                    rows[i, :-1] = reveal * table.p0[table.number(z)][i]
                    rows[i, -1] = 1 - reveal
                else:
                    rows[i, v], rows[i, -1] = 1 - sigma, sigma
            new += weight * together(rows)
        distribution = new
    data = np.array([table.number(x) for x in table.toy.states])
    assert distribution[data].sum() == pytest.approx(1)
    assert_distribution(counts, distribution[data])
    if eta == 0:
        ancestral, _ = table.counts(Ancestral(T), key=1)
        assert_distribution(ancestral, distribution[data])


REMDM = [dict(confidence=True), dict(loop=0.5), dict(eta=1.0), dict(rule="cap", eta=1.0)]


@pytest.mark.parametrize("options", REMDM)
def test_remdm_keeps_known_tokens_and_the_share_of_masks(options):
    process, L = MDLM(4), 400
    model = lambda z, t: jnp.zeros((*z.shape, 4))  # noqa: E731
    sampler = ReMDM(**(dict(steps=20, eta=0.2, rule="rescale") | options))
    known = jnp.full((8, L), -1).at[:, ::4].set(3)
    result = sampler.run(jax.random.key(0), process, model, (8, L), known, trace=True)
    tokens = result.frames.tokens
    assert (tokens[..., ::4] == 3).all() and (result.x0 < 4).all()
    free = np.asarray(tokens)[..., np.arange(L) % 4 > 0]
    share = (free == 4).mean((1, 2))
    error = 4 * np.sqrt(0.25 / free[0].size)
    np.testing.assert_allclose(share, sampler.times(), atol=2 * error)
    remasked = ((free[:-1] < 4) & (free[1:] == 4)).sum()
    assert remasked > 5 and len(sampler.times()) == 21


def test_remdm_by_confidence_masks_what_was_unsure_first():
    """A row's chances of being masked are sigma times softmax(-p), p what tokens were drawn with."""
    sampler = ReMDM(2, eta=0.3, confidence=True)
    drawn_with = np.array([0.9, 0.5, 0.1, 1.0])
    z = jnp.zeros((ROWS, 4), int).at[:, 3].set(2)  # the last is masked
    memory = jnp.broadcast_to(drawn_with, z.shape)
    state = State(z, jnp.full((ROWS, 1), 1.0), z, jnp.zeros(ROWS, jnp.int32), memory)
    model = lambda z, t: jnp.zeros((*z.shape, 2))  # noqa: E731
    new = sampler.advance(jax.random.key(0), 0, state, MDLM(2), model, None).z
    weight = np.exp(-drawn_with[:3])
    chances = 0.3 * weight / weight.sum()
    masked = np.asarray(new[:, :3] == 2).mean(0)
    assert (np.abs(masked - chances) < 5 * np.sqrt(chances / ROWS)).all()


def test_path_planning_keeps_the_share_of_the_schedule_and_with_eta_0_every_token(table):
    process, L = MDLM(5), 40
    logits = jax.random.normal(jax.random.key(1), (L, 5))
    model = lambda z, t: jnp.broadcast_to(logits[None], (*z.shape, 5))  # noqa: E731
    for eta in (0.0, 1.0):
        frames = (
            PathPlanning(8, eta=eta)
            .run(jax.random.key(0), process, model, (4, L), trace=True)
            .frames
        )
        masked = (frames.tokens == 5).sum(-1)
        np.testing.assert_array_equal(masked, np.repeat(40 - 5 * np.arange(9)[:, None], 4, 1))
        before, after = np.asarray(frames.tokens[:-1]), np.asarray(frames.tokens[1:])
        changed = ((before < 5) & (before != after)).sum()
        assert changed == 0 if eta == 0 else changed > 0
    # Known tokens stay though the model thinks nothing of them, and do not count.
    known = jnp.full((4, L), -1).at[:, ::5].set(jnp.argmin(logits[::5], axis=1)[None])
    found = PathPlanning(8).run(jax.random.key(0), process, model, (4, L), known, trace=True)
    assert (found.x0[:, ::5] == known[:, ::5]).all() and (found.x0 < 5).all()
    masked = (found.frames.tokens == 5).sum(-1)
    np.testing.assert_array_equal(masked, np.repeat(32 - 4 * np.arange(9)[:, None], 4, 1))


@pytest.mark.parametrize("positions", [1, 3])
def test_a_gibbs_correction_leaves_the_distribution_at_its_time_as_it_is(table, positions):
    """From exact draws of p_s, one correction; with several positions at once another distribution."""
    process, s = MDLM(table.size), 0.5
    sampler = PredictorCorrector(2, positions=positions)

    @jax.jit
    def corrected(key):
        key_x0, key_z, key = jax.random.split(key, 3)
        x0 = jax.random.choice(key_x0, table.toy.states, (ROWS,), p=table.toy.p)
        z = process.corrupt(key_z, jnp.asarray(x0), jnp.full((ROWS, 1), s))
        known = jnp.full(z.shape, -1)
        time = jnp.full((ROWS, 1), s)
        return sampler._gibbs(key, z, time, time, process, table.model, known)

    z = np.asarray(corrected(jax.random.key(0)))
    counts = np.bincount(z @ table.base, minlength=len(table.states))
    exact = np.asarray(
        table.toy.transition(process, jnp.asarray(table.states), jnp.full((1, 1), s))
    )
    distribution = exact.T @ table.toy.p
    if positions == 1:
        assert_distribution(counts, distribution)
    else:
        assert np.abs(counts / ROWS - distribution).sum() > 0.05


def test_a_gibbs_correction_forgets_the_token_that_it_draws_anew(table):
    """From a state without masks: a position by chance, and there the distribution given the others."""
    process, s = MDLM(table.size), 0.3
    state, distribution = table.states[0], np.zeros(len(table.states))  # all tokens are 0
    for i in range(table.length):
        hidden = state.copy()
        hidden[i] = table.size
        at_s = np.append((1 - s) * table.p0[table.number(hidden), i], s)
        for value, p in enumerate(at_s):
            new = state.copy()
            new[i] = value
            distribution[table.number(new)] += p / table.length
    z, time = jnp.tile(jnp.asarray(state), (ROWS, 1)), jnp.full((ROWS, 1), s)
    known = jnp.full(z.shape, -1)
    z = PredictorCorrector(2)._gibbs(jax.random.key(0), z, time, time, process, table.model, known)
    assert_distribution(
        np.bincount(np.asarray(z) @ table.base, minlength=len(table.states)), distribution
    )


@pytest.mark.parametrize("corrector", ["_gibbs", "_forward_backward"])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_corrections_keep_the_share_of_masks_of_their_time(table, corrector, share):
    process, sampler = MDLM(table.size), PredictorCorrector(2, share=share)
    t, s = (jnp.full((ROWS, 1), time) for time in (0.75, 0.5))
    keys = jax.random.split(jax.random.key(0), 4)
    x0 = jax.random.choice(keys[0], table.toy.states, (ROWS,), p=table.toy.p)
    z = process.corrupt(keys[1], jnp.asarray(x0), s)
    known = jnp.full(z.shape, -1)
    correct = jax.jit(
        lambda k, z: getattr(sampler, corrector)(k, z, t, s, process, table.model, known)
    )
    for key in keys[2:]:
        before, z = z, correct(key, z)
        assert (before != z).any()
    masked = np.asarray(z == table.size).mean(1)
    assert abs(masked.mean() - 0.5) < 5 * masked.std() / ROWS**0.5


@pytest.mark.representatives()
@pytest.mark.parametrize("options", [dict(), dict(corrector="forward_backward")])
@pytest.mark.usefixtures("optimized")
def test_corrections_bring_few_steps_nearer_to_the_data(table, options):
    distance = []
    for corrections in (1, 8):
        sampler = PredictorCorrector(4, corrections=corrections, **options)
        counts, calls = table.counts(sampler, rows=60_000)
        distance.append(np.abs(counts / 60_000 - table.toy.p).sum() / 2)
        assert (calls == sampler.calls(None, 3)).all()
    plain = np.abs(table.counts(Ancestral(4), rows=60_000)[0] / 60_000 - table.toy.p).sum() / 2
    assert distance[1] < distance[0] < plain
