"""Bayesian flow networks against numbers of the official code and exact ones, in float64.

The paper's time is 1 - t. Draws are replaced by the stored noise.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
from conftest import reference

from diffusion import bfn
from diffusion.bfn import BFN, PowerAccuracy
from samplers.ancestral import Ancestral

CLAMP = 1e-6  # the official code takes the paper's time 1 for 1 - this
KEY = jax.random.key(0)


def cases():
    """(process, the arrays without their prefix) for every number of classes in the file."""
    a = reference("bfn")
    found = [match[1] for key in a if (match := re.fullmatch(r"(K\d+_)max_sqrt_beta", key))]
    assert len(found) > 2
    heads = set()
    for prefix in found:
        arrays = {k.removeprefix(prefix): v for k, v in a.items() if k.startswith(prefix)}
        V = arrays["noise"].shape[-1]
        heads.add((V, arrays["output_logits"].shape[-1]))
        yield BFN(V, PowerAccuracy(float(arrays["max_sqrt_beta"] ** 2))), arrays
    assert (2, 1) in heads and len({V for V, width in heads if width == V}) > 1


def patch(monkeypatch, *noises):
    """The draws that follow are these, in turn."""
    left = list(noises)

    def normal(key, shape, dtype):
        noise = left.pop(0)
        assert noise.shape == tuple(shape) and dtype == noise.dtype
        return jnp.asarray(noise)

    monkeypatch.setattr(bfn, "normal", normal)
    return left


def time_of(a):
    """t (B, 1) of the stored times, which do not differ within a row."""
    assert (a["t"] == a["t"][:, :1]).all()
    return jnp.asarray(1 - np.minimum(a["t"][:, :1], 1 - CLAMP))


def begun(a):
    """Rows whose time is not the rounded 0 where the official code floors sqrt(beta) at 1e-10."""
    rows = a["t"][:, 0] > 1e-10
    assert rows.any() and not rows.all()
    return rows


def take(values, index):
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def told_by(a, accuracy):
    """theta of an accuracy and the stored noise."""
    V = a["noise"].shape[-1]
    y = accuracy * (V * np.eye(V)[a["x0"]] - 1) + np.sqrt(accuracy * V) * a["noise"]
    return np.exp(y) / np.exp(y).sum(-1, keepdims=True)


def log_normal(y, mean, variance):
    return -((y - mean) ** 2) / (2 * variance) - np.log(2 * np.pi * variance) / 2


def network(a, seen=None):
    """A network that puts out the stored logits, and notes its inputs in `seen`."""

    def model(z, t):
        if seen is not None:
            seen.append((np.asarray(z), np.asarray(t)))
        return jnp.asarray(a["output_logits"])

    return model


def test_flow_of_the_input_is_the_official_one(monkeypatch, x64):
    for process, a in cases():
        t, rows, x0 = time_of(a), begun(a), jnp.asarray(a["x0"])
        accuracy = process.schedule.accuracy(t)
        np.testing.assert_allclose(accuracy[rows], a["beta"][rows, :1], rtol=1e-12)
        np.testing.assert_allclose(accuracy, a["sqrt_beta"][:, :1] ** 2, rtol=1e-9, atol=1e-19)
        assert process.schedule.accuracy(1.0) == 0
        np.testing.assert_allclose(process.schedule.accuracy(0.0), a["max_sqrt_beta"] ** 2)
        patch(monkeypatch, a["noise"], a["noise"])
        y, z = process.send(KEY, x0, accuracy), np.asarray(process.corrupt(KEY, x0, t))
        np.testing.assert_allclose(y[rows], a["theta_logits"][rows], rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(z[rows], a["input_params_full"][rows], rtol=1e-10)
        np.testing.assert_allclose(z, a["input_params_full"], rtol=1e-9, atol=1e-9)
        kept = z if a["input_params"].ndim == z.ndim else z[..., 0]  # V = 2: only that of class 0
        np.testing.assert_allclose(kept[rows], a["input_params"][rows], rtol=1e-10)
        assert np.abs(z - 1 / process.vocab_size)[~rows].max() < 1e-9
        prior = process.prior(KEY, x0.shape)
        np.testing.assert_allclose(prior, a["prior_params"], rtol=1e-15)


def test_state_tells_of_the_token_what_the_sender_told(x64):
    """log theta is log q(y | x0 = v), up to a constant in v: the normal densities say so."""
    for process, a in cases():
        V, rows = process.vocab_size, begun(a)
        y, beta = a["theta_logits"][rows][:, :, None], a["beta"][rows][:, :, None, None]
        log_q = log_normal(y, beta * (V * np.eye(V) - 1), beta * V).sum(-1)
        z, t = jnp.asarray(a["input_params_full"][rows]), time_of(a)[rows]
        difference = np.asarray(process.log_likelihood(z, t)) - log_q
        np.testing.assert_allclose(difference, difference[..., :1] + 0 * log_q, atol=1e-9)


def test_output_and_continuous_loss_are_the_official_ones(monkeypatch, x64):
    for process, a in cases():
        t, x0, z = time_of(a), jnp.asarray(a["x0"]), jnp.asarray(a["input_params_full"])
        out = jnp.asarray(a["output_logits"])
        p0 = np.exp(process.predict(out, z, t))
        np.testing.assert_allclose(p0, a["output_probs"], rtol=1e-12)
        # The loss is linear in the paper's time, of which the clamp is no part here.
        t = jnp.asarray(1 - a["t"][:, :1])
        loss = process.token_loss(out, x0, z, t)
        np.testing.assert_allclose(loss, a["cts_loss_exact"], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(loss, a["cts_loss"], rtol=1e-6, atol=1e-15)  # t in float32
        seen = []
        patch(monkeypatch, a["noise"], a["noise"])
        terms = process.bound_terms(KEY, network(a, seen), x0, t)
        diffusion, reconstruction = terms.pop("diffusion"), terms.pop("reconstruction")
        np.testing.assert_allclose(diffusion, loss, rtol=1e-12)
        np.testing.assert_allclose(reconstruction, -np.log(take(a["output_probs"], a["x0"])))
        official = a["recon_loss"]  # in float32 for the one-column head
        single = (official == official.astype(np.float32)).all()
        assert single == (process.vocab_size == 2)
        slack = {"atol": 2e-7} if single else {"rtol": 1e-12}
        np.testing.assert_allclose(reconstruction, official, **slack)
        assert not terms
        # The two calls are at t = 0 and at t, each with the state of its own time.
        (end,) = (z for z, at in seen if not at.any())
        theta = told_by(a, a["max_sqrt_beta"] ** 2)
        np.testing.assert_allclose(end, theta, rtol=1e-9)
        (state,) = (z for z, at in seen if at.any())
        last = a["t"][:, 0] == 1
        assert last.any()
        np.testing.assert_allclose(state[last], theta[last], rtol=1e-9)
        inner = begun(a) & ~last
        np.testing.assert_allclose(state[inner], a["input_params_full"][inner], rtol=1e-9)


def steps(a):
    """(T, t, s, the accuracy gained) of the stored steps i of T, times and accuracy (B, 1)."""
    i = a["disc_i"]
    T = np.sqrt(a["max_sqrt_beta"] ** 2 * (2 * i - 1) / a["disc_alpha"])
    np.testing.assert_allclose(T, np.round(T[0]), rtol=1e-9)
    T = round(T[0])
    return T, *(jnp.asarray(1 - j / T)[:, None] for j in (i - 1, i)), a["disc_alpha"][:, None]


def by_coordinate(a, T, alpha):
    """The official discrete loss, (B, L), whose receiver mixes each coordinate of y on its own."""
    V, y, alpha = a["noise"].shape[-1], a["disc_y"], alpha[..., None]
    means = alpha[..., None] * (V * np.eye(V) - 1)  # of coordinate k (rows) in class j (columns)
    density = np.exp(log_normal(y[..., None], means, alpha[..., None] * V))
    sender = log_normal(y, alpha * (V * np.eye(V)[a["x0"]] - 1), alpha * V)
    mixed = np.log((a["output_probs"][..., None, :] * density).sum(-1))
    return T * (sender - mixed).sum(-1).mean(0)


def test_discrete_loss_is_the_papers_and_a_term_of_mean_zero(monkeypatch, x64):
    """Ours subtracts a share of the linear part less its mean: added back, here in numpy, what is left
    is the paper's loss. The share depends neither on the draw nor on the position."""
    for process, a in cases():
        T, t, s, alpha = steps(a)
        V, x0, out = process.vocab_size, jnp.asarray(a["x0"]), jnp.asarray(a["output_logits"])
        process = BFN(V, process.schedule, num_steps=T)
        gained = process.schedule.accuracy(s) - process.schedule.accuracy(t)
        np.testing.assert_allclose(gained, alpha, rtol=1e-12)
        p = a["output_probs"]
        control, by_step, by_loss = [], [], []
        for y, noise in zip(a["disc_y"], a["disc_noise"], strict=True):
            patch(monkeypatch, noise)
            np.testing.assert_allclose(process.send(KEY, x0, gained), y, rtol=1e-10, atol=1e-14)
            control.append(take(y, a["x0"]) - (p * y).sum(-1))
            by_step.append(process.step_loss(out, x0, None, t, gained, jnp.asarray(y)))
            seen, u = [], 1 - (jnp.asarray(a["disc_i"])[:, None] - 0.4) / T
            left = patch(monkeypatch, a["noise"], noise)
            by_loss.append(process.loss(KEY, network(a, seen), x0, u))
            ((z, time),) = seen
            assert not left
            np.testing.assert_allclose(time, t, rtol=1e-12)
            theta = told_by(a, (a["max_sqrt_beta"] * (1 - time[..., None])) ** 2)
            np.testing.assert_allclose(z, theta, rtol=1e-9)
        np.testing.assert_allclose(T * np.array(by_step), by_loss, rtol=1e-9, atol=1e-11)
        # Its mean: E y = gained (V e_x0 - 1), and p sums to 1.
        control = T * (np.array(control) - alpha * V * (1 - take(p, a["x0"])))
        excess, mean = a["disc_loss_paper_per_token"] - np.mean(by_loss, 0), control.mean(0)
        share = 1 / (1 + alpha * V)
        np.testing.assert_allclose(excess, share * mean, rtol=1e-9, atol=1e-10)
        exact = np.array(by_loss) + share * control
        # The official code has another receiver, and so another number.
        official = by_coordinate(a, T, alpha)
        np.testing.assert_allclose(official, a["disc_loss_code_per_token"], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(official.mean(1, keepdims=True), a["disc_loss"], rtol=1e-9)
        assert np.abs(exact.mean(0) - official).max() > 1e-6


def test_step_of_the_sampler_is_the_official_one(monkeypatch, x64):
    for process, a in cases():
        i, n = a["step_i_n"]
        rows, V = len(a["step_k"]), process.vocab_size
        t, s = (jnp.full((rows, 1), 1 - j / n) for j in (i - 1, i))
        gained = process.schedule.accuracy(s) - process.schedule.accuracy(t)
        np.testing.assert_allclose(gained, np.full((rows, 1), a["step_alpha"]), rtol=1e-12)
        z, x0 = jnp.asarray(a["step_prior"]), jnp.asarray(a["step_k"])
        patch(monkeypatch, *[a["step_noise"]] * 3)
        y = process.send(KEY, x0, gained)
        np.testing.assert_allclose(y, a["step_y"], rtol=1e-10, atol=1e-13)
        bridged = process.bridge(KEY, x0, z, t, s)
        np.testing.assert_allclose(bridged, a["step_posterior"], rtol=1e-10)

        def certain(z, t, x0=x0, V=V):
            return jnp.where(jax.nn.one_hot(x0, V, dtype=bool), 0.0, -jnp.inf)

        moved, guess = Ancestral(int(n)).step(KEY, process, certain, z, t, s)
        np.testing.assert_array_equal(guess, a["step_k"])
        np.testing.assert_allclose(moved, a["step_posterior"], rtol=1e-10)
