"""Fine-tuning by rewards: estimates against the enumerated likelihood, the gradient, and the command."""

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL
from oracle import Toy

import ddlm
from diffusion.mdlm import MDLM
from experiments import cli
from experiments.overrides import load
from experiments.studies.brackets import make_pairs
from experiments.studies.measuring import rewarded
from experiments.studies.measuring.policy_gradient import Estimate, advantages, surrogate

TOY = Toy(np.array([0.3, 0.02, 0.08, 0.05, 0.2, 0.05, 0.1, 0.05, 0.15]), 3, 2)


@dataclass(frozen=True)
class Exact:
    """In the place of an experiment: a network that is given as a function of (params, z, t)."""

    process: Any
    function: Any

    def bind(self, params):
        return self.process

    def network(self, params):
        return partial(self.function, params)


def test_estimates_have_the_mean_that_they_promise():
    """The bound of the exact denoiser is -log p(answer | prompt); one step has the product of what each
    token has alone, which is another distribution."""
    process, p, count = MDLM(3), TOY.p.reshape(3, 3), 4000
    denoiser = TOY.denoiser(process)
    # At t = 1 itself no token is left, and the oracle knows of none.
    experiment: Any = Exact(process, lambda params, z, t: denoiser(z, jnp.minimum(t, 0.999)))
    tokens = jnp.broadcast_to(jnp.array([[[0, 0]], [[2, 1]]]), (2, count, 2))
    first, second = p.sum(1)[[0, 2]], p.sum(0)[[0, 1]]
    joint = -np.log([p[0, 0], p[2, 1]])
    for known, expected, one_step in (
        ((False, False), joint, -np.log(first * second)),
        ((True, False), joint + np.log(first), joint + np.log(first)),
    ):
        given = jnp.broadcast_to(jnp.array(known), tokens.shape)

        def nats(estimate, given=given):
            call = jax.jit(partial(estimate.nats, experiment, {}))
            return np.asarray(call(jax.random.key(0), tokens, given))

        for estimate in (Estimate("bound", 1), Estimate("bound", 4)):
            found = nats(estimate)
            error = found.std(1) / count**0.5
            assert (np.abs(found.mean(1) - expected) < 4 * error).all() and error.min() > 1e-3
        one = nats(Estimate("one_step"))
        np.testing.assert_allclose(one, np.tile(one_step[:, None], count), rtol=1e-5)
    shared = nats(Estimate("bound", 2, shared=True))
    assert shared.std(1).max() == 0 and shared[0, 0] != shared[1, 0]


def test_the_gradient_is_that_of_the_expected_reward(x64):
    """Of one token, over all pairs of answers with their probabilities: unbiased, baseline and all."""
    rewards, known = jnp.array([1.0, -0.5, 0.2]), jnp.zeros((1, 2, 1), bool)

    def out(params, z, t):
        return jnp.broadcast_to(params, (*z.shape, 3))

    experiment: Any = Exact(MDLM(3), out)
    logits, total = jnp.array([0.3, -0.4, 0.9]), 0.0
    p = jax.nn.softmax(logits)
    slope = jax.jit(jax.grad(partial(surrogate, experiment, Estimate("one_step"))))
    for pair in itertools.product(range(3), repeat=2):
        answers = jnp.array(pair)[None, :, None]
        advantage = advantages(rewards[jnp.array(pair)][None])
        total += (
            p[pair[0]] * p[pair[1]] * slope(logits, jax.random.key(0), answers, known, advantage)
        )
    expected = jax.grad(lambda logits: jax.nn.softmax(logits) @ rewards)(logits)
    np.testing.assert_allclose(-total, expected, atol=1e-12)
    np.testing.assert_allclose(advantages(jnp.array([[1.0, 0.0, 0.0]])), [[1.0, -0.5, -0.5]])


def test_brackets_are_closed_in_the_order_that_they_ask_for():
    pairs = make_pairs(200, 6, 0)
    assert len({prompt for prompt, _ in pairs}) == 200
    for prompt, answer in pairs:
        text = prompt + answer
        while text:
            shorter = text
            for couple in ("()", "[]", "{}", "<>"):
                shorter = shorter.replace(couple, "")
            assert len(shorter) < len(text), prompt + answer
            text = shorter


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brackets")
    data = str(folder / "pairs")
    assert cli.guarded("studies.brackets", ["--out", data, "--num", "80", "--longest", "4"]) == 0
    sets = [
        *SMALL, f"data.path={data}", "data.rows=pair", "data.end=|", "data.tokenizer=Characters",
        "data.length=9", "sampler.steps=2", f"data.cache_dir={folder / 'cache'}",
    ]  # fmt: skip
    ddlm.train(load("configs/sotu/mdlm.py", sets), str(folder / "base"), log=lambda line: None)
    return folder


def tuned(base, name, iterations, *more):
    options = ["--run", str(base / "base"), "--workdir", str(base / name), "--prompts", "2"]
    options += [
        "--answers",
        "3",
        "--iterations",
        str(iterations),
        "--save-every",
        "1",
        "--test",
        "4",
    ]
    return cli.guarded("studies.policy_gradient", [*options, *more])


@pytest.mark.representatives()
def test_a_run_is_tuned_and_continued_by_the_command(base, capsys):
    """With a reward for short answers and a penalty; in two parts as at once, then an ordinary run."""
    reward = base / "reward.py"
    reward.write_text("def reward(prompt, answer, reference):\n    return -len(answer)\n")
    more = ["--reward", str(reward), "--kl", "0.1", "--set", "optimizer.schedule.peak_lr=0.01"]
    assert tuned(base, "parts", 1, *more) == tuned(base, "parts", 3, *more) == 0
    assert "continuing after step 1" in capsys.readouterr().out
    assert tuned(base, "parts", 4, *more, "--estimate", "one_step") == 2
    assert "rewarded otherwise: estimate " in capsys.readouterr().err
    assert tuned(base, "parts", 4, *more[2:]) == 2 and "reward_sha256" in capsys.readouterr().err
    assert tuned(base, "whole", 3, *more) == 0
    said = capsys.readouterr().out
    assert "reward before: -" in said and "reward after: -" in said
    parts, whole = (ddlm.load(base / name) for name in ("parts", "whole"))
    first = ddlm.load(base / "base")
    leaves = [jax.tree.leaves(run.params) for run in (parts, whole, first)]
    assert all((a == b).all() for a, b in zip(leaves[0], leaves[1], strict=True))
    assert any((a != b).any() for a, b in zip(leaves[0], leaves[2], strict=True))
    assert len(whole.sample(2, prompt="(")) == 2 and len(whole.metrics()["log_ratio"][0]) == 3


@pytest.mark.representatives()
def test_estimates_are_measured_by_the_command(base, capsys, monkeypatch):
    monkeypatch.setattr(rewarded, "ESTIMATES", rewarded.ESTIMATES[:3:2])
    options = ["--run", str(base / "base"), "--measure", "--prompts", "2", "--answers", "2"]
    assert cli.guarded("studies.policy_gradient", options) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[1:]] == ["one_step", "bound, shared"]


@pytest.mark.representatives()
def test_what_cannot_be_rewarded_is_told_in_a_line(base, tmp_path, capsys):
    text = load("configs/sotu/mdlm.py", [*SMALL, "data.length=8", "train.num_steps=1"])
    ddlm.train(text, str(tmp_path / "text"), log=lambda line: None)
    for options, message in (
        (["--run", str(tmp_path / "text")], "was not trained on pairs with an end"),
        (["--run", str(base / "base"), "--answers", "1"], "is compared with others"),
        (["--run", str(base / "base"), "--reward", "none.py"], "does not exist"),
    ):
        more = ["--workdir", str(tmp_path / "out")]
        assert cli.guarded("studies.policy_gradient", [*options, *more]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert cli.guarded("studies.policy_gradient", ["--run", str(base / "base")]) == 2
    nothing = tmp_path / "nothing.py"
    nothing.write_text("def reward(prompt, answer, reference):\n    return float('nan')\n")
    assert (
        tuned(base, "nothing", 1, "--reward", str(nothing)) == 2 and not (base / "nothing").exists()
    )
    assert tuned(base, "nothing", 1, "--set", "train.num_steps=3") == 2
    for text, message in (
        ("x = 1", "must define reward"),
        ("def reward(prompt, answer, reference):\n    return float('nan')", "must be finite"),
        ("def reward(prompt):\n    return 1", "TypeError"),
        ("1 / 0", "ZeroDivisionError"),
    ):
        file = tmp_path / "reward.py"
        file.write_text(text)
        with pytest.raises(ddlm.UserError, match=message):
            rewarded.read_reward(str(file))("a", "b", "c")
