"""Difformer: its loss by hand, its bound by quadrature, and what the anchor does to the minimum."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import Toy
from test_gaussian import LINE, PAIRS, at, decoding, divergence_from_the_prior

from diffusion.conditional import Clamped
from diffusion.difformer import Difformer
from diffusion.gaussian import GivenEmbeddings, LearnedEmbeddings
from diffusion.log_snr import LearnedLogSNR, NoiseRescaled, SqrtLogSNR
from diffusion.random import split
from samplers.mean_ancestral import MeanAncestral

V, D = 5, 4
FREE = Difformer(V, LearnedEmbeddings(D, "layer"), self_conditioning=0.0)
SPREAD = GivenEmbeddings(((2.0, 0.0), (-1.0, 1.7), (-1.0, -1.7)))
X0 = jnp.array([[0, 3, 1], [4, 4, 2], [1, 0, 0], [2, 3, 4]])
U = jnp.array([[0.01], [0.3], [0.6], [0.95]])


def line(schedule, **settings):
    return Difformer(3, LINE, schedule, self_conditioning=0.0, **settings)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("anchor", ["predicted", "true", "none"])
def test_the_loss_is_that_of_the_paper(anchor, x64):
    """|x - xhat|^2 over D entries, and the smoothed cross entropy of the predicted or true embedding."""
    process, key = replace(FREE, anchor=anchor), jax.random.key(3)
    u = jnp.asarray(U, jnp.float64)
    mix = np.random.default_rng(0).normal(size=(D, V))
    table, noise = process.embeddings, jax.random.normal(split(key)[0], (4, 3, D), jnp.float64)
    squared = 1 - np.sqrt(1e-4 + ((1 - 2e-4) ** 2 - 1e-4) * np.asarray(u))[..., None]
    # z = sqrt(alpha_bar) x + 4 sqrt(1 - alpha_bar) eps, divided by its deviation.
    x = np.asarray(table)[X0]
    z = np.sqrt(squared) * x + 4 * np.sqrt(1 - squared) * np.asarray(noise)
    z /= np.sqrt(squared + 16 * (1 - squared))
    guess = np.exp(log_softmax(z @ mix + np.asarray(u)[..., None])) @ table
    log_p = log_softmax((guess if anchor == "predicted" else x) @ np.asarray(table).T / 2)
    entropy = -0.9 * np.take_along_axis(log_p, np.asarray(X0)[..., None], 2)[..., 0]
    entropy = 0 if anchor == "none" else entropy - 0.1 * log_p.mean(-1)
    expected = ((x - guess) ** 2).mean(-1) + entropy
    found = process.loss(key, lambda z, t: z @ mix + t[..., None], X0, u)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_bound_of_the_exact_denoiser_is_the_entropy_whatever_the_factor(x64):
    """H(p) + KL(q(z_1) || N(0, I)): the factor moves the ends, and the bound with them."""
    toy, ends = Toy(np.array([0.5, 0.2, 0.3]), 3, 1), []
    nodes, weights = np.polynomial.legendre.leggauss(40)
    for factor in (0.5, 2.0):
        process = line(NoiseRescaled(SqrtLogSNR(noise=1e-2, signal=0.3), factor))

        def diffusion(u, process=process):
            t, scale = process.even(jnp.full((1, 1), u))
            return scale[0, 0] * at(toy, process, t[0, 0], process.token_loss)

        rate = jax.jit(diffusion)
        bound = sum(w / 2 * rate((x + 1) / 2) for x, w in zip(nodes, weights, strict=True))
        prior = toy.p @ process.prior_term(jnp.asarray(toy.states), jnp.float64)[:, 0]
        bound += at(toy, process, 0.0, decoding(process)) + prior
        exact = toy.entropy + divergence_from_the_prior(toy, process)
        np.testing.assert_allclose(bound, exact, atol=1e-5)
        ends.append(float(exact))
    assert ends[0] > ends[1] + 1e-3


@pytest.mark.usefixtures("optimized")
def test_the_estimate_of_the_bound_has_the_mean_over_all_times():
    """Times that are even in -log SNR cost no bias: the same mean as at even times, with less spread."""
    process, rows = line(NoiseRescaled(SqrtLogSNR(noise=0.02, signal=0.2), 2.0)), 20_000
    x0 = PAIRS.states[np.random.default_rng(0).choice(9, rows, p=PAIRS.p)]
    u = ((np.random.default_rng(1).permutation(rows) + 0.5) / rows).astype(np.float32)[:, None]
    model, key = PAIRS.denoiser(process), jax.random.key(0)

    @jax.jit
    def both():
        ours = process.bound_terms(key, model, x0, u)["diffusion"]
        z = process.corrupt(key, x0, u)
        return ours.sum(1), process.token_loss(model(z, u), x0, z, u).sum(1)

    ours, plain = map(np.asarray, both())
    error = (ours.var() / rows + plain.var() / rows) ** 0.5
    assert abs(ours.mean() - plain.mean()) < 4 * error and ours.std() < 0.5 * plain.std()


def test_the_anchor_moves_the_minimum_away_from_the_mean(x64):
    """Of a token that is uncertain: squares alone are least at p, and so is nothing else."""
    p = np.array([0.7, 0.2, 0.1])
    tokens = jnp.arange(3)[:, None]

    def mean_loss(logits, process):
        log_p0 = jnp.broadcast_to(jax.nn.log_softmax(logits), (3, 1, 3))
        return p @ process.anchored(log_p0, tokens)[:, 0]

    slopes = {}
    for anchor in ("none", "true", "predicted"):
        for smoothing in (0.0, 0.1):
            process = Difformer(3, SPREAD, anchor=anchor, label_smoothing=smoothing)
            slope = jax.grad(mean_loss)(jnp.log(p), process)
            slopes[anchor, smoothing] = np.abs(slope).max()
    assert max(slopes[a, s] for a, s in slopes if a != "predicted") < 1e-12
    assert min(slopes["predicted", s] for s in (0.0, 0.1)) > 1e-2


def test_label_smoothing_moves_the_minimum_where_nothing_is_uncertain(x64):
    """From the right token alone, weight on the others lowers the loss."""
    x0 = jnp.zeros((1, 1), jnp.int32)

    def loss(wrong, smoothing):
        process = Difformer(27, label_smoothing=smoothing)
        p = jnp.full((1, 1, 27), wrong / 26).at[..., 0].set(1 - wrong)
        return process.anchored(jnp.log(p), x0).sum()

    assert loss(0.01, 0.0) > loss(1e-9, 0.0) and loss(0.3, 0.1) < loss(1e-9, 0.1) - 0.1


def test_the_anchor_keeps_apart_what_squares_would_draw_together(x64):
    """Embeddings c e of a network that is right four times of five: squares would have c = 0."""
    rows, x0 = jnp.array([[0.6, 0.2, -0.5, 0.1], [-0.4, 0.3, 0.2, -0.7]]), jnp.array([[0, 1]])
    log_p0 = jnp.log(jnp.array([[[0.8, 0.2], [0.2, 0.8]]]))

    def slope(anchor):
        process = Difformer(2, LearnedEmbeddings(4, "none"), anchor=anchor)

        def loss(scale):
            bound = process.bind({"embedding": {"embeddings": scale * rows}})
            return bound.anchored(log_p0, x0).sum()

        return jax.grad(loss)(1.0)

    assert slope("none") > 0.01 and slope("predicted") < -0.01


NORMAL = Difformer(3, SPREAD, NoiseRescaled(factor=2.0), self_conditioning=0.0)


def network(z, t):
    return jnp.roll(z, 1, axis=1) @ jnp.array([[1.0, 0.3, -0.2], [0.1, -0.8, 1.1]])


def test_few_steps_decode_to_the_nearest_embeddings():
    """At the end, or in every step; and noise is then added to that embedding."""
    key, t, s = jax.random.key(0), jnp.full((4, 1), 0.5), jnp.full((4, 1), 0.45)
    z = NORMAL.corrupt(jax.random.key(1), X0 % 3, t)
    x = np.asarray(NORMAL.mean(NORMAL.predict(network(z, t), z, t)))
    rows = np.asarray(NORMAL.embeddings)
    nearest = ((x[:, :, None] - rows) ** 2).sum(-1).argmin(-1)
    assert len(set(nearest.ravel())) == 3
    drawn, last, always = (MeanAncestral(20, rounding=r) for r in ("drawn", "last", "always"))
    for sampler, middle in ((last, x), (always, rows[nearest])):
        moved, guess = sampler.step(key, NORMAL, network, z, t, s)
        np.testing.assert_array_equal(guess, nearest)
        expected = NORMAL.bridge_to(split(key)[0], jnp.asarray(middle), z, t, s)
        np.testing.assert_allclose(moved, expected, atol=1e-5)
        ended, _ = sampler.step(key, NORMAL, network, z, t, 0 * s)
        np.testing.assert_array_equal(ended, rows[nearest])
    kinds = [sampler.compatibility(NORMAL).kind for sampler in (drawn, last, always)]
    assert kinds == ["exact", "approximate", "approximate"]


def test_a_banned_token_is_not_taken_where_it_is_nearest():
    """To the mean of the two tokens on its sides."""
    process, z, t = line(NoiseRescaled()), jnp.zeros((1, 1, 1)), jnp.full((1, 1), 0.5)
    step = MeanAncestral(3, rounding="last").step
    for out, token in (([0.0, -20.0, 0.2], 1), ([0.0, -jnp.inf, 0.2], 2)):
        found = step(jax.random.key(0), process, lambda z, t, o=out: jnp.array([[o]]), z, t, t)[1]
        assert found[0, 0] == token


def test_decoding_may_end_early():
    """The first fifteen of twenty steps, at the same times."""
    short = MeanAncestral(15, end=0.3)
    np.testing.assert_allclose(short.times()[:-1], MeanAncestral(20).times()[:15], atol=1e-6)
    assert short.times()[-1] == 0 and short.compatibility(NORMAL).kind == "approximate"
    for settings, message in (
        ({"end": 0.0}, "end = 0.0 is outside"),
        ({"end": 0.3, "grid": "cosine"}, "leave one of them as it is"),
    ):
        with pytest.raises(ValueError, match=message):
            MeanAncestral(4, **settings)


def test_a_source_text_stands_clean_in_both_passes():
    """Known tokens in training: whatever the time, and the loss of the others alone depends on them."""
    process, seen = Difformer(3, SPREAD), []

    def model(both, t):
        seen.append(both)
        return jnp.roll(both[..., :3], 1, axis=1)

    x0, known = X0 % 3, jnp.array([[True, False, False]])
    clean = Clamped(process.wrapped(model), process.space, jnp.where(known, x0, -1))
    loss = process.loss(jax.random.key(0), clean, x0, U)
    rows = process.embeddings[x0]
    assert len(seen) == 2 and jnp.isfinite(loss).all()
    for both in seen:
        np.testing.assert_array_equal(both[:, 0, :2], rows[:, 0])
        assert np.abs(both[:, 1:, :2] - rows[:, 1:]).min() > 0
    assert np.any(seen[1][..., 2:]) and not np.any(seen[0][..., 2:])


def test_what_makes_no_process_is_rejected_in_a_line():
    for settings, message in (
        ({"schedule": LearnedLogSNR()}, "Difformer.schedule = LearnedLogSNR is learned"),
        ({"label_smoothing": 1.0}, "label_smoothing = 1.0 is outside"),
        ({"self_conditioning": -0.1}, "Difformer.self_conditioning = -0.1 is outside"),
        ({"embedding": LearnedEmbeddings(1, "layer")}, "width = 1 must be at least 2"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            Difformer(**settings)
        assert "\n" not in str(error.value)
