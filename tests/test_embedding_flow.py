"""LangFlow and FLM: their times by what they promise, their bound by quadrature, their loss by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import Toy
from test_gaussian import LINE, at, decoding, divergence_from_the_prior

from diffusion.embedding_flow import FLM, ArgmaxLogSNR, GumbelLogSNR, LangFlow
from diffusion.gaussian import LearnedEmbeddings
from diffusion.log_snr import LearnedLogSNR
from samplers.ode import ODE

TOY = Toy(np.array([0.5, 0.2, 0.3]), 3, 1)
ON_A_LINE = LangFlow(3, LINE, GumbelLogSNR(-1.0, 0.6, 1e-3), self_conditioning=0.0)


def quadrature(integrand, nodes):
    points, weights = np.polynomial.legendre.leggauss(nodes)
    rate = jax.jit(integrand)
    return sum(w / 2 * rate((x + 1) / 2) for x, w in zip(points, weights, strict=True))


@pytest.mark.parametrize("head", ["posterior", "leave_one_out"])
def test_the_bound_of_the_exact_denoiser_is_the_entropy(head, x64):
    """H(p) + KL(q(z_1) || N(0, I)): whichever noise is trained, the bound depends on its ends alone."""
    process = replace(ON_A_LINE, head=head)

    def diffusion(u):
        t, scale = process.even(jnp.full((1, 1), u))
        return scale[0, 0] * at(TOY, process, t[0, 0], process.token_loss)

    prior = TOY.p @ process.prior_term(jnp.asarray(TOY.states), jnp.float64)[:, 0]
    bound = quadrature(diffusion, 40) + at(TOY, process, 0.0, decoding(process)) + prior
    exact = TOY.entropy + divergence_from_the_prior(TOY, process)
    np.testing.assert_allclose(bound, exact, atol=1e-5)
    assert exact > TOY.entropy + 1e-3


def test_the_loss_is_the_cross_entropy_at_the_noise_of_the_schedule(x64):
    process, u = ON_A_LINE, jnp.array([[0.1], [0.4], [0.9]])
    x0, key = jnp.asarray(TOY.states), jax.random.key(2)
    noise = jax.random.normal(jax.random.split(key)[0], (3, 1, 1), jnp.float64)
    gamma = -1.0 - 0.6 * np.log(-np.log(1e-3 + 0.998 * np.asarray(u)))[..., None]
    x = np.array([-1.3, 0.2, 0.9])
    z = (x[np.asarray(x0)][..., None] + np.exp(gamma / 2) * np.asarray(noise)) / np.sqrt(
        1 + np.exp(gamma)
    )
    out = np.array([0.3, -0.2, 0.6])
    # log N(z; alpha x_v, sigma^2) and the network's logits, of each token
    signal, spread = 1 / np.sqrt(1 + np.exp(gamma)), 1 / (1 + np.exp(-gamma))
    logits = out - (z - signal * x) ** 2 / (2 * spread)
    expected = (
        np.log(np.exp(logits).sum(-1))
        - np.take_along_axis(logits, TOY.states[..., None], 2)[..., 0]
    )
    loss = process.loss(key, lambda z, t: jnp.broadcast_to(out, (3, 1, 3)), x0, u)
    np.testing.assert_allclose(loss, expected, rtol=1e-9)


@pytest.mark.parametrize("vocab_size", [2, 27, 50_257])
def test_argmax_is_the_token_as_often_as_a_mask_would_leave_it(vocab_size, x64):
    """P(argmax z_t = x0) = T + (1 - T) / V by an integral of its own, T even in t; and t of gamma."""
    schedule = ArgmaxLogSNR(vocab_size)
    t = jnp.array([0.0, 0.1, 0.35, 0.5, 0.8, 0.95, 1.0])
    gamma = schedule.gamma(t)
    ratio = np.exp(-np.asarray(gamma) / 2) * vocab_size**0.5  # of sqrt(V) alpha and sigma
    y = np.linspace(-10, 10, 20_001)
    below = np.exp((vocab_size - 1) * np.asarray(jax.scipy.special.log_ndtr(y + ratio[:, None])))
    right = (np.exp(-(y**2) / 2) / np.sqrt(2 * np.pi) * below).sum(1) * 1e-3
    kept = (vocab_size * right - 1) / (vocab_size - 1)
    np.testing.assert_allclose(kept, kept[0] + (kept[-1] - kept[0]) * np.asarray(t), atol=2e-3)
    assert 0.998 < kept[0] < 1 and 0 < kept[-1] < 0.05 and np.abs(gamma).max() <= 20
    np.testing.assert_allclose(schedule.time(gamma), t, atol=1e-9)


def test_gumbel_noise_has_the_published_ends_and_quantiles(x64):
    schedule = GumbelLogSNR()
    ends = schedule.gamma(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(ends, [2.641, 14.53], atol=3e-3)
    drawn = 4.723 + 0.852 * np.random.default_rng(0).gumbel(size=200_000)
    t = jnp.array([0.05, 0.3, 0.7, 0.95])
    np.testing.assert_allclose(schedule.gamma(t), np.quantile(drawn, t), atol=0.03)
    np.testing.assert_allclose(schedule.time(schedule.gamma(t)), t, atol=1e-9)


def test_a_step_of_the_ode_is_eulers_on_flms_line(x64):
    """z_c = (1 - c) eps + c onehot is our state scaled: c / (1 - c) = sqrt(V) alpha / sigma."""
    process = FLM(4)
    times = jnp.array([[0.6], [0.5]])
    gamma = process.schedule.gamma(times)
    snr = 2 * jnp.exp(-gamma / 2)
    c, sigma = snr / (1 + snr), jnp.sqrt(jax.nn.sigmoid(gamma))
    (c_t, c_s), (sigma_t, sigma_s) = (map(float, a[:, 0]) for a in (c, sigma))
    log_p0 = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (1, 3, 4)))
    z = process.corrupt(jax.random.key(1), jnp.array([[0, 3, 1]]), times[:1])
    theirs = z * (1 - c_t) / sigma_t  # noise of the size 1 - c
    velocity = (jnp.exp(log_p0) - theirs) / (1 - c_t)
    moved = theirs + (c_s - c_t) * velocity
    ours = process.flow(log_p0, z, times[:1], times[1:])
    np.testing.assert_allclose(ours, moved * sigma_s / (1 - c_s), atol=1e-9)


def test_the_one_hot_vectors_are_of_the_vocabulary():
    assert FLM(5).traits.vector_width == 5 and FLM().traits.vector_width is None
    assert FLM(5, self_conditioning=0.5).traits.vector_width == 10
    np.testing.assert_allclose(FLM(5).embeddings, np.eye(5) * 5**0.5, rtol=1e-6)
    assert ODE(4).compatibility(FLM(5)).kind == "approximate"


def test_what_makes_no_flow_is_rejected_in_a_line():
    for make, message in (
        (
            lambda: LangFlow(schedule=LearnedLogSNR()),
            "LangFlow.schedule = LearnedLogSNR is learned",
        ),
        (lambda: GumbelLogSNR(scale=0.0), "GumbelLogSNR.scale = 0.0 must be positive"),
        (lambda: GumbelLogSNR(loc=15.0), "it must stay where float32 tells noise from none"),
        (lambda: ArgmaxLogSNR(5, 0.5), r"ArgmaxLogSNR.eps = 0.5 is outside"),
        (lambda: LangFlow(embedding=LearnedEmbeddings(0)), "width = 0 must be at least 1"),
        (lambda: FLM().schedule.gamma(jnp.zeros(1)), "ArgmaxLogSNR.vocab_size is filled in"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            make()
        assert "\n" not in str(error.value)
