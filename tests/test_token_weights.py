"""Weights of tokens: which count how much, what that does to the minimum, and the reference run."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.smoke import get_config
from experiments import cli, train
from experiments.config import Teacher
from experiments.data.tokenizers import Letters27
from experiments.overrides import resolve
from experiments.run import load_run
from experiments.studies.measuring.gradient_noise import with_settings
from experiments.token_weights.both import Both
from experiments.token_weights.even import Even
from experiments.token_weights.goldfish import Goldfish
from experiments.token_weights.loss_truncation import LossTruncation
from experiments.token_weights.rarity import Rarity
from experiments.token_weights.rho1 import Rho1
from experiments.token_weights.sequence_tilt import SequenceTilt
from experiments.token_weights.token_weight import TokenWeight, kept
from experiments.training.train_step import init_state, make_train_step

NATS = jnp.array([[4.0, 0.0, 1.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0, 5.0], [0.0] * 5])
X0 = jnp.zeros((3, 5), int)


def test_of_each_row_the_largest_are_kept_for_all_that_count():
    found = kept(NATS, NATS != 0, 0.5)
    assert found.tolist() == [[2, 0, 0, 2, 0], [0, 0, 0, 0, 1], [0] * 5]
    assert kept(NATS, NATS != 0, 0.51).sum(1).tolist() == [4, 1, 0]
    assert (kept(NATS, NATS != 0, 0.51) > 0).sum(1).tolist() == [3, 1, 0]
    assert kept(NATS, NATS != 0, 1.0).tolist() == (NATS != 0).astype(float).tolist()


def test_the_costliest_tokens_are_truncated_among_those_that_cost_anything():
    assert LossTruncation(0.25)(X0, NATS)[0].tolist() == pytest.approx([0, 0, 4 / 3, 4 / 3, 4 / 3])
    assert LossTruncation(0.5)(X0, NATS)[0].tolist() == [0, 0, 2, 0, 2]
    np.testing.assert_array_equal(LossTruncation(0.0)(X0, NATS), NATS != 0)


def test_rho1_keeps_what_a_reference_knows_better():
    reference = jnp.array([[3.9, 0.0, 0.1, 3.5, 0.5]])
    assert Rho1(0.5)(X0[:1], NATS[:1], reference).tolist() == [[0, 0, 2, 0, 2]]


def test_goldfish_leaves_out_by_the_tokens_before_alone():
    x = np.random.default_rng(0).integers(0, 30_000, (64, 256))
    weight = np.asarray(Goldfish(4, 3)(jnp.asarray(x), jnp.zeros(x.shape)))
    assert set(np.unique(weight)) == {0, np.float32(4 / 3)}
    left_out = weight == 0
    error = (0.25 * 0.75 / x.size) ** 0.5
    assert abs(left_out.mean() - 0.25) < 5 * error
    both = (left_out[:, 1:] & left_out[:, :-1]).mean()
    assert abs(both - 1 / 16) < 6 * error
    other = x.copy()
    other[:, 100:] = 7  # a token decides over later ones only
    changed = np.asarray(Goldfish(4, 3)(jnp.asarray(other), jnp.zeros(x.shape))) != weight
    assert not changed[:, :101].any() and changed[:, 101:].any()
    copied = np.roll(x, 9, axis=1)  # a copy elsewhere is left out at the same places
    moved = np.asarray(Goldfish(4, 3)(jnp.asarray(copied), jnp.zeros(x.shape)))
    np.testing.assert_array_equal(moved[:, 12:], weight[:, 3:-9])
    swapped = x.copy()
    swapped[:, [0, 1]] = x[:, [1, 0]]  # the order of the tokens counts
    found = np.asarray(Goldfish(4, 3)(jnp.asarray(swapped), jnp.zeros(x.shape)))[:, 2]
    assert (found != weight[:, 2]).any()


def test_goldfish_keeps_the_minimum_from_left_to_right_and_not_where_what_decides_is_masked():
    states = jnp.array([[a, b] for a in range(5) for b in range(5)])
    p = np.random.default_rng(1).dirichlet(np.ones(25)).reshape(5, 5)
    weight = np.asarray(Goldfish(2, 1)(states, jnp.zeros((25, 2))))[:, 1].reshape(5, 5)
    assert 0 < (weight == 0).mean() < 1
    assert (weight == weight[:, :1]).all()
    of_kept = (p * weight / p.sum(1, keepdims=True))[weight[:, 0] > 0]
    given = (p / p.sum(1, keepdims=True))[weight[:, 0] > 0]
    np.testing.assert_allclose(of_kept / of_kept.sum(1, keepdims=True), given, rtol=1e-6)
    marginal = (p * weight).sum(0) / (p * weight).sum()  # the first token is masked
    assert abs(marginal - p.sum(0)).max() > 0.01


def test_rarity_has_the_mean_1_over_the_text_and_tilts_the_minimum_by_its_weights():
    counts = (70.0, 20.0, 10.0, 0.0)
    weight = Rarity(0.5, counts)
    frequencies = np.array([70, 20, 10, 1]) / 101
    np.testing.assert_allclose(
        weight.weights * frequencies, frequencies**0.5 / (frequencies**0.5).sum()
    )
    assert (weight.weights * frequencies).sum() == pytest.approx(1)
    q, x0 = np.array([0.4, 0.3, 0.2, 0.1]), jnp.arange(4)[:, None]

    def loss(out):
        nats = -jax.nn.log_softmax(out)[:, None]
        return (q[:, None] * weight(x0, nats) * nats).sum()

    tilted = q * frequencies**-0.5
    np.testing.assert_allclose(jax.grad(loss)(jnp.log(tilted)), 0, atol=1e-6)
    np.testing.assert_allclose(Rarity(0.0, counts).weights, 1, rtol=1e-12)


def test_sequences_are_tilted_by_their_own_mean_loss():
    weight = SequenceTilt(0.5, centre=1.0, most=1.2)(X0, NATS)
    wanted = [1.2, 1.0, np.exp(-0.5)]  # means 2, 1 and 0
    np.testing.assert_allclose(weight, np.repeat(np.array(wanted)[:, None], 5, 1), rtol=1e-6)
    np.testing.assert_array_equal(weight[1:2], SequenceTilt(0.5, 1.0, 1.2)(X0[:1], NATS[1:2]))
    above = SequenceTilt(-0.5, centre=0.0, against_reference=True)
    reference = NATS + jnp.array([[1.0], [0.0], [-2.0]])
    found = above(X0, NATS, reference)[:, 0]
    np.testing.assert_allclose(found, np.exp([0.5, 0, -1.0]), rtol=1e-6)
    assert above.needs_reference and not SequenceTilt().needs_reference
    assert Both(Even(), above).needs_reference


@pytest.mark.parametrize("tilt", [1.5, -0.8])
def test_a_tilt_learns_a_power_of_the_probability_of_a_text(tilt):
    """From left to right over two tokens of three, where the loss is exactly -log p."""
    x0 = jnp.array([[a, b] for a in range(3) for b in range(3)])
    q = np.random.default_rng(2).dirichlet(np.ones(9))
    weight = SequenceTilt(tilt, centre=1.0, most=1e9)

    def loss(out):
        first, then = jax.nn.log_softmax(out[0]), jax.nn.log_softmax(out[1:])
        nats = -jnp.stack([first[x0[:, 0]], then[x0[:, 0], x0[:, 1]]], axis=1)
        return (q[:, None] * weight(x0, jax.lax.stop_gradient(nats)) * nats).sum()

    tilted = (q ** (2 / (2 + tilt))).reshape(3, 3)
    tilted = jnp.asarray(tilted / tilted.sum())
    at = jnp.log(jnp.concatenate([tilted.sum(1)[None], tilted]))
    np.testing.assert_allclose(jax.grad(loss)(at), 0, atol=1e-6)
    own = jnp.log(jnp.concatenate([q.reshape(3, 3).sum(1)[None], q.reshape(3, 3)]))
    assert abs(jax.grad(loss)(own)).max() > 0.01


def test_two_weights_multiply_and_the_counts_are_those_of_the_text():
    config = get_config()
    both = Both(Goldfish(3), Both(Rarity(), LossTruncation()))
    config = replace(config, train=replace(config.train, token_weight=both))
    tokens = np.random.default_rng(0).integers(0, 27, 5000)
    filled = resolve(config, Letters27(), lambda: tokens).train.token_weight
    assert filled.second.first.unigram == tuple(np.bincount(tokens, minlength=27).astype(float))
    x0 = jnp.asarray(tokens[:60].reshape(3, 20))
    nats = jnp.asarray(np.random.default_rng(1).random((3, 20)), jnp.float32)
    wanted = Goldfish(3)(x0, nats) * filled.second.first(x0, nats) * LossTruncation()(x0, nats)
    np.testing.assert_allclose(filled(x0, nats), wanted, rtol=1e-6)
    assert not filled.needs_reference and Both(Rho1()).needs_reference


@dataclass(frozen=True)
class Same(TokenWeight):
    """1 where the reference says exactly the same, else 0."""

    needs_reference = True

    def __call__(self, x0, nats, reference=None):
        return jnp.where(nats == reference, 1.0, 0.0)


def test_the_reference_is_asked_at_the_same_noisy_states():
    config = get_config()
    config = replace(config, model=replace(config.model, dropout=0.0))
    plain = resolve(config, Letters27())
    train = replace(plain.train, token_weight=Same())
    compared = replace(plain, train=train, teacher=Teacher("run", model=plain.model))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 27, (1, 16, 32)))
    state = init_state(plain)
    noisy = jax.tree.map(
        lambda p: p + jnp.sin(jnp.arange(p.size)).reshape(p.shape), state["params"]
    )
    step = jax.jit(make_train_step(compared))
    assert float(step(state, tokens, None, state["params"])[1]) > 2
    assert float(step(state, tokens, None, noisy)[1]) == 0


def test_a_run_learns_what_a_reference_run_knows_and_evaluates_the_bound(tmp_path, capsys):
    short = [
        "train.num_steps=2",
        "train.eval_every=2",
        "evaluation.max_sequences=8",
        "data.length=16",
    ]
    reference, run = str(tmp_path / "reference"), str(tmp_path / "run")

    def options(workdir, *settings):
        words = [word for setting in (*short, *settings) for word in ("--set", setting)]
        return ["--config", "configs/smoke.py", "--workdir", workdir, *words]

    rho1 = ["train.token_weight=Rho1", "teacher=Teacher", f"teacher.workdir={reference}"]
    train.main(options(reference))
    train.main(options(run, *rho1, "teacher.start_from=False", "train.token_weight.share=0.01"))
    loaded = load_run(run)
    assert loaded.experiment.teacher.fingerprint == load_run(reference).fingerprint
    capsys.readouterr()
    for settings, words in (
        (rho1[:1], "Rho1 learns from a trained run; give its directory with --set teacher=Teacher"),
        ([*rho1, "process=UDLM"], "holds a MDLM, but Rho1 learns from UDLM"),
        (rho1[1:], "learns from no teacher"),
    ):
        assert cli.guarded("train", options(str(tmp_path / "other"), *settings)) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Goldfish(every=1), "Goldfish.every = 1 must be at least 2"),
        (lambda: Goldfish(context=0), "Goldfish.context = 0 must be at least 1"),
        (lambda: Rarity(power=2), r"Rarity.power = 2 is outside \[0, 1\]"),
        (lambda: Rarity().weights, "Rarity.unigram = None is filled in"),
        (lambda: LossTruncation(share=1.0), r"LossTruncation.share = 1.0 is outside \[0, 1\)"),
        (lambda: SequenceTilt(tilt=-1.0), "SequenceTilt.tilt = -1.0 must be above -1"),
        (lambda: SequenceTilt(most=0.0), "SequenceTilt.most = 0.0 must be above 0"),
        (lambda: Rho1(share=0.0), r"Rho1.share = 0.0 is outside \(0, 1\]"),
    ],
)
def test_mistakes_are_said_at_construction(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_without_a_weight_that_compares_the_noise_of_a_run_needs_no_teacher():
    config = get_config()
    weighed = replace(
        config, train=replace(config.train, token_weight=Rho1()), teacher=Teacher("r")
    )
    assert with_settings(weighed, "train.token_weight=Even").teacher is None
    assert with_settings(weighed, "train.time_weight=Tempered").teacher == Teacher("r")
