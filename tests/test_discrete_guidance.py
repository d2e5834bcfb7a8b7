"""Guided reverse steps on discrete states, and their sampler, on an enumerable toy with labels."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import Masked
from oracle import Toy, assert_distribution
from test_guidance import Labelled

from diffusion.kernels import Uniform
from diffusion.mdlm import MDLM
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM
from samplers.discrete_guidance import ByClassifier, MixedPosteriors
from samplers.guidance import classifier_free
from samplers.logits_processor import LogitsProcessor
from samplers.posterior import Posterior

ROWS = 20_000
TIMES = [(0.9, 0.6), (0.3, 0.0)]
LABELLED = Labelled()
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def pair(process):
    """The exact denoisers with and without the label."""
    return LABELLED.conditional.denoiser(process), LABELLED.free.denoiser(process)


def by_classifier(process, strength=1.0, **options):
    log_p_label = LABELLED.log_p_label(process)
    return ByClassifier(process, pair(process)[1], log_p_label, strength, **options)


def every_state(process, t):
    z = jnp.asarray(LABELLED.free.all_states(process))
    return z, jnp.full((len(z), 1), t)


def step_of(process, model, z, t, s):
    """log p(z_s | z_t) of a network."""
    return process.log_posterior(process.predict(model(z, t), z, t), z, t, s)


def distribution(process, distributions, steps):
    """p(x0) of `steps` steps from t = 1, by enumeration of all states."""
    toy, (z, _) = LABELLED.free, every_state(process, 1.0)
    tokens = np.asarray((z < process.vocab_size).all(1))
    p = np.ones(len(z)) if tokens.all() else np.asarray((z == process.vocab_size).all(1), float)
    p /= p.sum()

    @jax.jit
    def transition(t, s):
        log_p = distributions(z, *(jnp.full((len(z), 1), time) for time in (t, s)))[0]
        return jnp.exp(sum(log_p[:, i][:, z[:, i]] for i in range(toy.length)))

    times = np.minimum(np.arange(steps, -1, -1) / steps, 1 - 1e-9)
    for t, s in itertools.pairwise(times):
        p = p @ np.asarray(transition(t, s))
    out = np.zeros(len(toy.p))
    out[toy.index(z[tokens])] = p[tokens]
    assert abs(out.sum() - 1) < 1e-5
    return out


def distance(p, q):
    return np.abs(p - q).sum() / 2


@pytest.mark.representatives("sedd")
@pytest.mark.parametrize("process", [MDLM(3), SEDD(3)], ids=["mdlm", "sedd"])
def test_a_masked_position_guided_by_the_exact_classifier_takes_the_conditional_step(process, x64):
    conditional, _ = pair(process)
    guidance = by_classifier(process)
    for t, s in TIMES:
        z, t = every_state(process, t)
        step = jnp.exp(jax.jit(guidance.distributions)(z, t, t * 0 + s)[0])
        np.testing.assert_allclose(
            step, jnp.exp(step_of(process, conditional, z, t, t * 0 + s)), **TIGHT
        )
        revealed = np.asarray(z < 3)
        np.testing.assert_allclose(step[revealed], np.eye(4)[z][revealed], **TIGHT)
        # So any sampler may take the guidance in the network's place.
        np.testing.assert_allclose(
            jnp.exp(process.predict(guidance(z, t), z, t)),
            jnp.exp(process.predict(conditional(z, t), z, t)),
            **TIGHT,
        )


@pytest.mark.parametrize("process", [UDLM(3), SEDD(3, Uniform())], ids=["udlm", "sedd"])
def test_the_exact_classifier_leads_uniform_noise_to_the_conditional_distribution_as_steps_shrink(
    process, x64
):
    guidance, target = by_classifier(process), LABELLED.conditional.p
    distributions = [distribution(process, guidance.distributions, T) for T in (16, 32, 64)]
    apart = [distance(found, target) for found in distributions]
    # The error of a step taken for all positions apart is of the first order in its size, and so in the
    # limit there is none: twice the last distribution less the one before is much nearer.
    assert 0.4 < apart[1] / apart[0] < 0.6 and 0.4 < apart[2] / apart[1] < 0.6
    assert distance(2 * distributions[2] - distributions[1], target) < apart[-1] / 4


def test_the_first_order_goes_most_of_the_way_to_the_conditional_distribution(x64):
    process, target = UDLM(3), LABELLED.conditional.p
    apart = distance(
        distribution(process, by_classifier(process, exact=False).distributions, 64), target
    )
    assert apart < 0.5 * distance(LABELLED.free.p, target)


@pytest.mark.parametrize("process", [MDLM(3), UDLM(3)], ids=["mdlm", "udlm"])
def test_the_first_order_is_exact_for_a_classifier_that_is_affine_in_the_state(process, x64):
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(3, process.num_states)))

    def log_p_label(z, t):
        onehot = jax.nn.one_hot(z, process.num_states) if z.ndim == 2 else z
        return t[:, 0] * jnp.einsum("bls,ls->b", onehot, weights) - 1

    z, t = every_state(process, 0.6)
    first_order, exact = (
        ByClassifier(process, None, log_p_label, 1.0, exact).log_p_changed(z, t)
        for exact in (False, True)
    )
    np.testing.assert_allclose(first_order, exact, **TIGHT)
    assert np.ptp(exact, axis=-1).min() > 0.1


def test_how_many_states_are_classified_at_once_changes_nothing():
    process = UDLM(3)
    z, t = every_state(process, 0.6)
    values = [by_classifier(process, at_once=n).log_p_changed(z, t) for n in (1, 4, 100)]
    for other in values[1:]:
        np.testing.assert_allclose(other, values[0], rtol=1e-5, atol=1e-6)


@pytest.mark.representatives("udlm")
@pytest.mark.parametrize("process", [MDLM(3), UDLM(3)], ids=["mdlm", "udlm"])
def test_strength_0_is_the_unguided_sampler_bit_for_bit(process):
    _, free = pair(process)

    @jax.jit
    def draw(strength):
        guidance = ByClassifier(process, free, lambda z, t: jnp.full(len(z), -jnp.inf), strength)
        return Posterior(6).sample(jax.random.key(0), process, guidance, (200, 3))

    unguided = jax.jit(lambda: Posterior(6).sample(jax.random.key(0), process, free, (200, 3)))()
    np.testing.assert_array_equal(draw(0.0), unguided)
    z, t = every_state(process, 0.6)
    guidance = ByClassifier(process, free, lambda z, t: jnp.full(len(z), -jnp.inf), 0.0)
    np.testing.assert_array_equal(
        guidance.distributions(z, t, t / 2)[0], step_of(process, free, z, t, t / 2)
    )
    # A label that the classifier thinks impossible everywhere tells nothing, up to rounding.
    assert (draw(1.0) != unguided).any(1).mean() < 0.02


@pytest.mark.parametrize("process", [MDLM(3), UDLM(3)], ids=["mdlm", "udlm"])
def test_mixed_posteriors_are_those_of_the_two_networks_at_their_strengths(process, x64):
    both = pair(process)
    for t, s in TIMES:
        z, t = every_state(process, t)
        s = t * 0 + s
        of_label, of_none = (np.exp(step_of(process, network, z, t, s)) for network in both)

        def step(strength, interval=(0.0, 1.0), z=z, t=t, s=s):
            return np.exp(
                MixedPosteriors(process, *both, strength, interval).distributions(z, t, s)[0]
            )

        np.testing.assert_allclose(step(1.0), of_label, **TIGHT)
        np.testing.assert_allclose(step(0.0), of_none, **TIGHT)
        np.testing.assert_array_equal(step(2.0, (0.0, 0.0)), of_label)
        odds = of_label * np.divide(of_label, of_none, where=of_none > 0, out=0 * of_none)
        np.testing.assert_allclose(step(2.0), odds / odds.sum(-1, keepdims=True), **TIGHT)
        assert np.abs(step(2.0) - of_label).max() > 0.01


def test_mixed_posteriors_of_a_step_without_noise_left_are_mixed_distributions_of_x0(x64):
    process = UDLM(3)
    both = pair(process)
    z, t = every_state(process, 0.4)
    log_p, log_p0 = MixedPosteriors(process, *both, 2.0).distributions(z, t, 0 * t)
    model = classifier_free(process, *both, 2.0)
    mixed = process.predict(model(z, t), z, t)
    np.testing.assert_allclose(np.exp(log_p), np.exp(mixed), **TIGHT)
    np.testing.assert_allclose(np.exp(log_p0), np.exp(mixed), **TIGHT)
    # With noise left they are something else.
    early = MixedPosteriors(process, *both, 2.0).distributions(z, t, 0.3 + 0 * t)[0]
    assert np.abs(np.exp(early) - np.exp(step_of(process, model, z, t, 0.3 + 0 * t))).max() > 1e-3


def test_mixed_posteriors_of_a_mask_change_the_odds_of_revealing(x64):
    process, strength = MDLM(3), 2.0
    both = pair(process)
    z, t = every_state(process, 0.6)
    s = 0 * t + 0.3
    model = classifier_free(process, *both, strength)
    kept = np.exp(step_of(process, model, z, t, s))[..., -1]
    mixed = np.exp(MixedPosteriors(process, *both, strength).distributions(z, t, s)[0])[..., -1]
    masked = np.asarray(z == 3)
    kept, mixed = kept[masked], mixed[masked]
    p, p_free = (np.exp(process.predict(network(z, t), z, t))[masked] for network in both)
    factor = (p**strength * p_free ** (1 - strength)).sum(-1)
    np.testing.assert_allclose(1 / mixed - 1, factor * (1 / kept - 1), rtol=1e-9)
    assert factor.max() > 1.01


def test_posterior_sampling_has_the_distribution_of_ancestral_sampling():
    toy = Toy.named()
    for steps in (4, 16):
        draw = partial(
            Posterior(steps).sample,
            process=MDLM(3),
            model=toy.denoiser(MDLM(3)),
            shape=(ROWS, 3),
        )
        counts = np.bincount(toy.index(jax.jit(draw)(jax.random.key(0))), minlength=len(toy.p))
        assert_distribution(counts, Masked(toy).d3pm(steps))


@pytest.mark.parametrize("kind", ["classifier", "classifier-free"])
def test_posterior_sampling_draws_the_guided_steps(kind):
    process, steps = UDLM(3), 4
    if kind == "classifier":
        guidance = by_classifier(process, 2.0)
    else:
        guidance = MixedPosteriors(process, *pair(process), 2.0)
    draw = jax.jit(lambda k: Posterior(steps).sample(k, process, guidance, (ROWS, 3)))
    counts = np.bincount(LABELLED.free.index(draw(jax.random.key(1))), minlength=27)
    expected = distribution(process, guidance.distributions, steps)
    assert_distribution(
        counts, expected, bias=1e-5
    )  # the distribution is enumerated in float32 here
    assert distance(expected, LABELLED.free.p) > 0.1


@pytest.mark.parametrize("process", [MDLM(3), UDLM(3)], ids=["mdlm", "udlm"])
def test_rows_know_nothing_of_each_other_and_the_last_frame_is_the_sample(process):
    guidance = MixedPosteriors(process, *pair(process), 2.0)
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(1), n))(jnp.arange(8))
    given = jnp.array([[-1, -1, -1], [0, -1, -1], [-1, 2, 1], [-1, 2, -1]] * 2)

    @jax.jit
    def run(keys, given):
        return Posterior(5).run(keys, process, guidance, given.shape, given, trace=True)

    together, alone = run(keys, given), run(keys[2:4], given[2:4])
    np.testing.assert_array_equal(together.x0[2:4], alone.x0)
    np.testing.assert_array_equal(together.frames.tokens[-1], together.x0)
    assert ((given < 0) | (together.x0 == given)).all() and (together.x0 < 3).all()
    assert (together.calls == 5).all()


def test_a_transform_of_a_guided_step_and_impossible_intervals_are_rejected():
    process = UDLM(3)
    guidance = by_classifier(process)
    with pytest.raises(ValueError, match="modify the networks"):
        Posterior(2, logits_processor=LogitsProcessor(top_k=1)).modified(process, guidance)
    assert Posterior(2).compatibility(process).kind == "exact"
    with pytest.raises(ValueError, match="interval"):
        MixedPosteriors(process, None, None, 1.0, (0.5, 0.2))


@pytest.mark.representatives("False")
@pytest.mark.parametrize("exact", [True, False])
def test_a_classifier_guides_within_its_interval_of_times_row_by_row(exact, x64):
    process, calls = UDLM(3), []
    log_p_label = LABELLED.log_p_label(process)

    def counted(z, t):
        jax.debug.callback(lambda: calls.append(1))
        return log_p_label(z, t)

    def distributions(interval, t):
        guidance = ByClassifier(process, pair(process)[1], counted, 1.7, exact, interval=interval)
        found = guidance.distributions(z, t, t * 0.5)
        jax.effects_barrier()
        return [np.asarray(a) for a in found]

    z = every_state(process, 0.5)[0][:6]
    t = jnp.linspace(0.1, 0.9, 6)[:, None]
    always, never = distributions((0.0, 1.0), t), distributions((0.0, 0.0), t)
    assert calls and np.abs(always[0] - never[0]).max() > 0.01
    acts = np.asarray((t >= 0.3) & (t <= 0.7))[..., None]
    assert acts.any() and not acts.all()
    for found, inside, outside in zip(distributions((0.3, 0.7), t), always, never, strict=True):
        np.testing.assert_allclose(found, np.where(acts, inside, outside), **TIGHT)
    calls.clear()
    distributions((0.3, 0.7), t * 0 + 0.9)
    assert not calls
