"""Noise towards any distribution of the tokens: against its limits, against small steps, and where the
distribution comes from. Its bound, marginals and posterior are enumerated in test_processes."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import Toy, complete

from configs.sotu import sedd_uniform, udlm_unigram
from diffusion.kernels import Absorbing, Uniform
from diffusion.mdlm import MDLM
from diffusion.schedules import Linear
from diffusion.sedd import SEDD
from diffusion.stationary import Stationary, Unigram, alias_table
from diffusion.udlm import UDLM
from experiments.data.tokenizers import Letters27
from experiments.errors import UserError
from experiments.overrides import override, resolve
from experiments.serialization import decode, encode

V, B, L = 5, 40, 6
RNG = np.random.default_rng(0)
X0, Z = RNG.integers(0, V, (2, B, L))
T, OUT = RNG.uniform(0.01, 0.99, (B, 1)), RNG.normal(size=(B, L, V))


@pytest.mark.parametrize("head", ["leave_one_out", "posterior", "score"])
def test_with_equal_probabilities_it_is_uniform_noise(head, x64):
    alike = Stationary((1 / V,) * V)

    def make(kernel):
        return SEDD(V, kernel, head=head) if head == "score" else UDLM(V, Linear(), head, kernel)

    one, other = make(Uniform()), make(alike)
    out, x0, z, t = map(jnp.asarray, (OUT, X0, Z, T))
    for name, arguments in {
        "token_loss": (out, x0, z, t),
        "log_ratio": (out, z, t),
        "log_reverse_rate": (out, z, t),
        "predict": (out, z, t),
    }.items():
        np.testing.assert_allclose(
            getattr(one, name)(*arguments), getattr(other, name)(*arguments), rtol=1e-9, atol=1e-12
        )
    for keep in (0.02, 0.6):
        np.testing.assert_allclose(
            alike.prior_divergence(keep, 1 - keep, V),
            np.broadcast_to(Uniform().prior_divergence(keep, 1 - keep, V), V),
        )


def test_as_all_of_it_goes_to_one_token_it_is_the_mask_of_mdlm(x64):
    rare = 1e-12
    towards = Stationary((*(rare,) * V, 1 - V * rare))
    out, x0, z, t = map(jnp.asarray, (OUT, X0, np.where(Z < 2, V, X0), T))
    nowhere = jnp.full((B, L, 1), -60.0)  # what the network gives to the token that is no text
    loss = UDLM(V + 1, kernel=towards).token_loss(jnp.concatenate([out, nowhere], -1), x0, z, t)
    expected = MDLM(V).token_loss(out, x0, z, t)
    np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-6)
    assert (expected > 0.01).any() and (expected == 0).any()


@pytest.mark.parametrize("head", ["leave_one_out", "score"])
def test_reverse_rates_are_those_of_small_steps_and_tweedie_the_exact_step(head, x64):
    toy = Toy.named("V4L2")
    process = complete(SEDD(kernel=Unigram(), schedule=Linear(), head=head), toy.vocab_size)
    z, dt = jnp.asarray(toy.states), 1e-7
    t = jnp.full((len(z), 1), 0.6)
    out = toy.denoiser(process)(z, t)
    p0 = process.predict(out, z, t)
    step = np.exp(process.log_posterior(p0, z, t, t - dt)) / dt
    rate = np.exp(process.log_reverse_rate(out, z, t))
    moves = np.asarray(z)[..., None] != np.arange(toy.vocab_size)
    np.testing.assert_allclose(rate[moves], step[moves], rtol=1e-5)
    assert rate[moves].std() > 0.1 and not rate[~moves].any()
    s = t / 3
    tweedie = np.exp(process.log_tweedie(out, z, t, s))
    np.testing.assert_allclose(
        tweedie / tweedie.sum(-1, keepdims=True),
        np.exp(process.log_posterior(p0, z, t, s)),
        rtol=1e-9,
    )


def test_rare_tokens_have_their_own_probability_in_the_table_that_draws_them():
    p = np.array([*(0.5, 0.3, 1e-12, 3e-9), *np.random.default_rng(0).dirichlet(np.ones(50)) / 5])
    p /= p.sum()
    stays, other = alias_table(p)
    held = stays.astype(np.float64)
    np.add.at(held, other, 1 - stays.astype(np.float64))
    np.testing.assert_allclose(held[2:4], p[2:4] * len(p), rtol=1e-6)
    np.testing.assert_allclose(held, p * len(p), rtol=1e-5)


TEXT = np.array([0] * 6 + [1] * 3 + [26], np.uint8)


def test_frequencies_are_those_of_the_training_text_and_stored():
    experiment = resolve(udlm_unigram.get_config(), Letters27(), lambda: TEXT)
    kernel = experiment.process.kernel
    np.testing.assert_allclose(kernel.pi(27) * (10 + 24), np.r_[6, 3, np.ones(25)])
    assert decode(encode(experiment)) == experiment
    chosen = override(
        sedd_uniform.get_config(), ["process.kernel=Unigram", "process.kernel.floor=0.5"]
    )
    kernel = resolve(chosen, Letters27(), lambda: TEXT).process.kernel
    np.testing.assert_allclose(kernel.pi(27)[2] / kernel.pi(27)[0], 0.5 / 6)


def test_a_distribution_is_read_from_a_file_and_a_bad_one_told(tmp_path):
    given = override(udlm_unigram.get_config(), ["process.kernel=Stationary"])
    p = np.random.default_rng(1).dirichlet(np.ones(27))
    np.save(tmp_path / "p.npy", p.astype(np.float32))
    (tmp_path / "p.json").write_text(json.dumps(p.tolist()))

    def read(name):
        path = f"process.kernel.probabilities={tmp_path / name}"
        return resolve(override(given, [path]), Letters27())

    for name in ("p.npy", "p.json"):
        experiment = read(name)
        np.testing.assert_allclose(experiment.process.kernel.pi(27), p, rtol=1e-6)
        assert decode(encode(experiment)) == experiment
    for bad, words in (
        (p[:-1] / p[:-1].sum(), "26 tokens, but the data has 27"),
        (p * 1.01, "sum to 1.01, and not to 1"),
        (np.r_[0, p[1:]], r"probabilities\[0\] = 0; give every token"),
        (np.r_[np.nan, p[1:]], r"probabilities\[0\] = nan"),
        (p[None], r"shape \(1, 27\), which is not a list"),
        (np.array(["a"] * 27), "not real numbers"),
    ):
        np.save(tmp_path / "bad.npy", bad)
        with pytest.raises(UserError, match=words):
            read("bad.npy")
    for text, words in (('{"a": 1}', "not a list"), ("[1, [2]]", "cannot be read"), ("", "cannot")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError, match=words):
            read("bad.json")
    (tmp_path / "bad.txt").write_text("0.5 0.5")
    for name, words in (("bad.txt", "it is not a .npy file"), ("none.npy", "No such file")):
        with pytest.raises(UserError, match=words):
            read(name)
    with pytest.raises(UserError, match=r"kernel.probabilities is missing.*FILE"):
        resolve(given, Letters27())


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Unigram(floor=0.0), "Unigram.floor = 0.0 must be positive"),
        (lambda: Unigram().pi(3), "Unigram.unigram = None is filled in"),
        (lambda: Stationary().pi(3), "probabilities is missing.*FILE"),
        (lambda: UDLM(4, kernel=Unigram(unigram=(1.0, 2.0))), "2 tokens, but the data has 4"),
        (lambda: SEDD(4, Stationary((0.5, 0.5))), "2 tokens, but the data has 4"),
        (lambda: UDLM(4, kernel=Absorbing()), "does not draw tokens anew; use Uniform"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_what_does_not_fit_is_told(make, words):
    with pytest.raises(ValueError, match=words):
        make()
