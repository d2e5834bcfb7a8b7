"""GenMD4 and Spindle against the numbers of their official code."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from conftest import reference
from oracle import assert_distribution

from diffusion.genmd4 import GenMD4
from diffusion.numerics import gather_last, log_one_hot
from diffusion.spindle import Spindle

OFFICIAL_EPS = 1e-4  # not among the arrays of md4.npz, but in its README
OFFICIAL_FIRST_TIME = 1e-3


# GenMD4 against the official code


@dataclass(frozen=True)
class GivenNoise(GenMD4):
    """GenMD4 whose `corrupt` gives the arrays of `draws`, one after the other."""

    draws: Iterator = iter(())

    def corrupt(self, key, x0, t):
        return next(self.draws)


def official_genmd4(arrays):
    """The process, its learned parameter, data, the two noisy copies, out and t."""
    process = GenMD4(arrays["logits"].shape[-1], eps=OFFICIAL_EPS)
    names = ("gen_w", "x", "zt", "zt2", "logits")
    return process, *(jnp.asarray(arrays[k]) for k in names), jnp.asarray(arrays["t"])[:, None]


def test_genmd4_schedule_equals_the_official_one(x64):
    a = reference("md4")
    process, theta, *_ = official_genmd4(a)
    process, grid = process.bind({"theta": theta}), jnp.asarray(a["t_grid"])
    np.testing.assert_allclose(process.power, a["gen_power"], rtol=1e-12)
    masked = jnp.exp(process.log_masked(grid))
    np.testing.assert_allclose(1 - masked, a["gen_alpha_grid"], rtol=1e-10, atol=1e-14)
    inside = a["t_grid"] > 0  # at 0 the weight is infinite
    assert inside.sum() > 2
    weight = process.weight(grid)[inside]
    np.testing.assert_allclose(weight, -a["gen_dgamma_times_alpha_grid"][inside], rtol=1e-10)
    np.testing.assert_allclose(weight * masked[inside], -a["gen_dalpha_grid"][inside], rtol=1e-10)


def test_genmd4_losses_and_noise_distribution_equal_the_official_ones(x64):
    a = reference("md4")
    process, theta, x0, z, z2, out, t = official_genmd4(a)
    process = process.bind({"theta": theta})
    losses = [process.token_loss(out, x0, zi, t).sum(1) for zi in (z, z2)]
    np.testing.assert_allclose(losses[0], a["gen_loss_1"], rtol=1e-10)
    np.testing.assert_allclose(losses[1], a["gen_loss_2"], rtol=1e-10)
    log_q = [gather_last(process.log_likelihood(zi, t), x0).sum(1) for zi in (z, z2)]
    surrogate = (losses[0] - losses[1]) * (log_q[0] - log_q[1]) / 2
    np.testing.assert_allclose(surrogate, a["gen_rloo_surrogate"], rtol=1e-9)


def test_genmd4_loss_and_gradient_equal_the_official_ones(x64):
    a = reference("md4")
    process, theta, x0, z, z2, out, t = official_genmd4(a)

    def training(theta):
        given = GivenNoise(process.vocab_size, process.eps, draws=iter((z, z2)))
        given = given.bind({"theta": theta})
        return given.loss(jax.random.key(0), lambda z, t: out, x0, t).sum(1).mean()

    def pathwise(theta):
        bound = process.bind({"theta": theta})
        return sum(bound.token_loss(out, x0, zi, t).sum(1).mean() for zi in (z, z2)) / 2

    def reconstruction(theta):
        # The official integral stops at t = 1e-3, and this term of their code pays for the rest. Ours
        # runs to 0 and has no such term, so the test adds theirs to our gradient.
        log_likelihood = jax.nn.softplus(theta) * np.log(OFFICIAL_FIRST_TIME)
        of_x0 = log_likelihood[x0]
        cost = jnp.exp(of_x0) * (of_x0 - jax.nn.logsumexp(log_likelihood))
        return -(1 - OFFICIAL_EPS) * cost.sum(1)

    np.testing.assert_allclose(reconstruction(theta), a["gen_recon"], rtol=1e-9)
    value, gradient = jax.jit(jax.value_and_grad(training))(theta)
    # The surrogate is in the gradient alone: the value is the bound, gen_total_nelbo.
    np.testing.assert_allclose(
        value + reconstruction(theta).mean(), a["gen_total_nelbo"], rtol=1e-10
    )
    reinforce = gradient - jax.jit(jax.grad(pathwise))(theta)
    np.testing.assert_allclose(reinforce, a["gen_rloo_grad_w"], rtol=1e-8, atol=1e-11)
    total = gradient + jax.grad(lambda theta: reconstruction(theta).mean())(theta)
    np.testing.assert_allclose(total, a["gen_total_surrogate_grad_w"], rtol=1e-8, atol=1e-11)


# Spindle, as published, against the official code


class OfficialSpindle:
    """The arrays of diffusion_bert.npz with the mask as the last token, and our process for them.

    Their V holds the mask and a padding token, whose frequency their code sets to 0 after the maximum
    was taken: our counts are 0 where the frequency is, and the scale that remains goes into strength.
    """

    def __init__(self):
        a = self.arrays = reference("diffusion_bert")
        self.mask = int(a["q_xt_x0"][-1].sum((0, 1)).argmax())
        data = np.delete(np.arange(len(a["counts"])), self.mask)
        self.order = np.append(data, self.mask)
        self.T = len(a["betas"])
        self.frequency = a["word_freq"][data]
        self.scale = self.frequency.max()
        counts = np.where(self.frequency > 0, a["counts"][data], 0)
        self.strength = a["lambda_t"][1] / np.sin(np.pi / self.T)
        self.process = Spindle(
            len(data),
            strength=float(self.strength * self.scale),
            num_steps=self.T,
            unigram=tuple(counts.tolist()),
            posterior="published",
        )
        self.x0 = self.ours(a["x0"])
        self.steps = sorted(int(m[1]) for k in a if (m := re.fullmatch(r"t(\d+)_posterior", k)))
        assert len(self.steps) > 1

    def ours(self, tokens):
        return jnp.asarray(np.argsort(self.order)[tokens])

    def columns(self, name):
        """An array over their tokens, its last axis in our order."""
        return self.arrays[name][..., self.order]

    def time(self, k):
        return jnp.full((len(self.x0), 1), k / self.T)

    def posterior(self, k, z, log_p0):
        """Their q(x_k | x_(k+1) = z, x0) with exp(log_p0), (B, L, V + 1), in place of one-hot x0.

        Bayes' rule for a one-step kernel that keeps a token with 1 - beta_k, whatever the token, and a
        marginal that keeps it with alpha_bar^i: the two are not of one chain unless strength is 0.
        """
        a, states, z = self.arrays, np.arange(len(self.order)), np.asarray(z)[..., None]
        beta, keep = a["betas"][k], a["alpha_bar_token"][k][..., None]
        mask = states == states[-1]
        to_mask, to_token = np.where(mask, 1, beta), np.where(states == z, 1 - beta, 0)
        joint = keep * np.exp(log_p0) + (1 - keep) * mask
        joint = joint * np.where(z == states[-1], to_mask, to_token)
        return joint / joint.sum(-1, keepdims=True)


def test_published_spindle_schedule_equals_the_official_one(x64):
    official = OfficialSpindle()
    a, process, x0 = official.arrays, official.process, official.x0
    assert process.likelihood == "estimate"
    assert replace(process, posterior="exact").likelihood == "bound"
    np.testing.assert_allclose(
        process.frequency * official.scale, official.frequency, rtol=1e-12, atol=1e-15
    )
    for k in range(official.T + 1):
        keep = process.published_keep(x0, official.time(k))
        # Their table of 1 - k / T is rounded to float32.
        np.testing.assert_allclose(keep, a["alpha_bar_token"][k], atol=1.3e-7)
    one_hot = np.asarray(x0)[..., None] == np.arange(process.vocab_size)
    np.testing.assert_allclose(
        np.where(one_hot, a["alpha_bar_token"][..., None], 0),
        official.columns("q_xt_x0")[..., :-1],
        atol=1e-12,
    )


def test_published_spindle_corrupts_by_the_official_distribution(x64):
    official = OfficialSpindle()
    rows, k = 40_000, official.T // 2
    for b, x in enumerate(official.x0):
        x0 = jnp.broadcast_to(x, (rows, len(x)))
        t = jnp.full((rows, 1), k / official.T)
        z = np.asarray(official.process.corrupt(jax.random.key(b), x0, t))
        masked = z == official.process.vocab_size
        assert (masked | (z == x0)).all()
        for i in range(len(x)):
            keep = official.arrays["alpha_bar_token"][k, b, i]
            counts = np.array([masked[:, i].sum(), rows - masked[:, i].sum()])
            assert_distribution(counts, np.array([1 - keep, keep]))


def test_published_spindle_reveals_with_the_official_probability(x64):
    official = OfficialSpindle()
    a, process, x0 = official.arrays, official.process, official.x0
    for k in official.steps:
        z = official.ours(a[f"t{k}_x_t1"])
        masked = np.asarray(z) == process.vocab_size
        assert masked.any()
        posterior = official.columns(f"t{k}_posterior")
        reveal = process.published_reveal(x0, official.time(k + 1))
        np.testing.assert_allclose(reveal[masked], gather_last(posterior, x0)[masked], atol=1e-6)
        np.testing.assert_allclose(1 - reveal[masked], posterior[masked][:, -1], atol=1e-6)


def test_published_spindle_loss_is_the_official_divergence_without_mass_on_the_mask(x64):
    official = OfficialSpindle()
    a, process, x0 = official.arrays, official.process, official.x0
    logits = official.columns("logits")
    without_mask = np.concatenate([logits[..., :-1], np.full_like(logits[..., -1:], -np.inf)], -1)
    log_p0, log_p0_without_mask = (jax.nn.log_softmax(x) for x in (logits, without_mask))
    log_x0 = log_one_hot(x0, len(official.order))
    for k in official.steps:
        z = official.ours(a[f"t{k}_x_t1"])
        q = official.posterior(k, z, log_x0)
        # The formula of this test is the official one, mass on the mask included, ...
        p = official.posterior(k, z, log_p0)
        np.testing.assert_allclose(q, official.columns(f"t{k}_posterior"), atol=1e-6)
        np.testing.assert_allclose(p, official.columns(f"t{k}_p_forward"), atol=1e-6)
        # ... and without that mass, which our heads do not have, its divergence is our loss.
        p = official.posterior(k, z, log_p0_without_mask)
        kl = np.where(q > 0, q * np.log(np.where(q > 0, q, 1) / np.where(q > 0, p, 1)), 0).sum(-1)
        loss = process.token_loss(jnp.asarray(logits[..., :-1]), x0, z, official.time(k + 1))
        assert (np.asarray(loss) > 0).any()
        np.testing.assert_allclose(loss, official.T * kl, rtol=1e-5, atol=1e-5)


def test_published_spindle_posterior_is_not_that_of_its_own_marginals(x64):
    # Wrong officially: q(z_t | x0) keeps a token with alpha_bar^i, so that by Bayes' rule a mask is
    # revealed with (alpha_s - alpha_t) / (1 - alpha_t). Their posterior takes its one-step factor from
    # the schedule without the spindle: too low for one token and too high for another. Steps drawn
    # from it leave the marginals, and the sum of its divergences is no bound.
    official = OfficialSpindle()
    process, T = official.process, official.T

    def gaps(process, alpha):
        exact = (alpha[1:-2] - alpha[2:-1]) / (1 - alpha[2:-1])
        times = [official.time(k) for k in range(2, T)]
        return np.array([process.published_reveal(official.x0, t) for t in times]) - exact

    published = gaps(process, official.arrays["alpha_bar_token"])
    assert published.min() < -0.02 and published.max() > 0.02
    plain = np.broadcast_to(1 - np.arange(T + 1)[:, None, None] / T, (T + 1, *official.x0.shape))
    np.testing.assert_allclose(gaps(replace(process, strength=0.0), plain), 0, atol=1e-12)


def test_published_spindle_is_cut_to_0_and_0_999_but_certain_at_0(x64):
    process = Spindle(2, 3.0, num_steps=10, unigram=(1000, 1), posterior="published")
    frequent_and_rare = jnp.array([[0, 1]])
    keep = [process.published_keep(frequent_and_rare, jnp.full((1, 1), t)) for t in (0.0, 0.5)]
    np.testing.assert_array_equal(keep, [[[1, 1]], [[0.999, 0]]])
