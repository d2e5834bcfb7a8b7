"""The ladder of sizes: the fit on points whose constants are known, equal FLOPs, and the command."""

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from record_examples import ROOT, cells

from experiments import cli
from experiments.comparison import methods
from experiments.errors import Stopped
from experiments.ladders import ladder
from experiments.ladders.fit import Undetermined, fit
from experiments.ladders.ladder import make_ladder, size_overrides
from experiments.overrides import load, override

E, A, a, B, b = 1.7, 400.0, 0.34, 410.0, 0.28  # Hoffmann et al.'s
GRID = np.array([(n, c / 6 / n) for n in (1e5, 3e5, 1e6, 3e6) for c in (1e14, 4e14, 1.6e15)])


def law(n, d):
    return E + A / n**a + B / d**b


def made(seed, noise, points=GRID):
    n, d = points.T
    return n, d, law(n, d) * np.exp(noise * np.random.default_rng(seed).normal(size=len(n)))


def test_without_noise_the_fit_is_what_made_the_points():
    found = fit(*made(0, 0), draws=2)
    assert found.constants == pytest.approx([E, A, a, B, b], rel=1e-4)
    assert found.loss(1e7, 1e9) == pytest.approx(law(1e7, 1e9), rel=1e-6)
    assert found.noise < 1e-6


def test_intervals_hold_the_constants_and_what_further_runs_measure():
    held = dict.fromkeys(("E", "a", "b", "best"), 0)
    within = []
    for seed in range(8):
        found = fit(*made(seed, 0.003), draws=80)
        for name, truth in {"E": E, "a": a, "b": b, "best": b / (a + b)}.items():
            value, low, high = found.interval(name)
            held[name] += low <= truth <= high
            assert low < value < high
        for n, d in ((1e6, 1e8), (1e7, 1e9)):  # inside of the grid and beyond it
            value, low, high = found.predict(n, d)
            again = made(100 + seed, 0.003, np.array([(n, d)] * 100))[2]
            within.append(np.mean((low <= again) & (again <= high)))
            assert high - low < 0.2 * value
    assert min(held.values()) >= 6, held  # of 8; fewer than 6 have a probability of 1 in 2,000
    assert np.mean(within) > 0.9 and min(within[::2]) > 0.7


@pytest.mark.parametrize(
    "points, noise, words",
    [
        (GRID[:5], 0, "runs: 5, but five constants and their noise need at least 6"),
        (GRID[:6], 0, "different sizes: 2"),
        (np.array([(n, d) for n in (1e5, 3e5, 1e6) for d in (1e8, 1e9)]), 0, "different numbers of t"),
        (GRID, 1.0, "is not known"),
        (np.array([(n, 1e14 / n) for n in np.geomspace(1e5, 1e6, 7)]), 0.01, "is not known"),
    ],
)  # fmt: skip
def test_points_that_do_not_determine_the_fit_give_a_reason_and_no_number(points, noise, words):
    with pytest.raises(Undetermined, match=re.escape(words)):
        fit(*made(0, noise, points), draws=40)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the people of the union and of the states " * 200)
    return [f"data.path={path}", "train.eval_every=1000", "evaluation.num_times=1"]


SMOKE = str(ROOT / "configs" / "smoke.py")


def test_runs_of_a_budget_take_equal_flops_and_their_rate_is_stretched_to_their_steps(text):
    settings = [*text, "optimizer.schedule=Linear", "optimizer.schedule.warmup_steps=4"]
    settings += ["optimizer.schedule.decay_steps=40"]  # of 40 steps
    rungs = make_ladder(
        Path("none"), SMOKE, settings, ["1x16", "2x32"], [3e9, 6e9], "validation"
    ).rungs
    assert [(r.size, r.budget) for r in rungs] == [
        ("1x16", 3e9), ("2x32", 3e9), ("1x16", 6e9), ("2x32", 6e9),
    ]  # fmt: skip
    for rung in rungs:
        experiment = rung.method.resolved
        assert abs(rung.flops - rung.budget) <= rung.step_flops / 2
        assert rung.tokens == rung.steps * 16 * 32
        per_token = experiment.model.flops_per_token(32)
        assert rung.step_flops == 3 * per_token * 16 * 32
        schedule = experiment.optimizer.schedule
        assert schedule.decay_steps == rung.steps
        assert schedule.warmup_steps == round(rung.steps / 10)
    head, block = 16 * 27 + 27, 4 * 16**2 + 2 * 16 * 32 + 2 * 16
    assert rungs[0].parameters == head + block + 16  # without the table of embeddings


def test_a_size_keeps_what_goes_with_the_width():
    base = override(load(SMOKE), ["model.num_key_heads=1", "model.mlp_width=64"])
    model = override(base, size_overrides(base, "3x64")).model
    assert (model.num_layers, model.width, model.channels) == (3, 64, base.model.channels)
    assert (model.num_heads, model.num_key_heads, model.mlp_width) == (4, 2, 128)


def scaling(workdir, settings, *arguments):
    words = [word for item in settings for word in ("--set", item)]
    words += ["--config", SMOKE, "--workdir", str(workdir), *arguments]
    return cli.guarded("scaling", words)


def test_a_ladder_that_was_stopped_continues_and_does_nothing_twice(
    text, tmp_path, monkeypatch, capsys
):
    settings = [*text, "data.length=16", "model.dropout=0", "train.batch_size=4"]
    words = ["--sizes", "1x16", "--budgets", "2e6", "4e6"]
    trained, train = [], methods.train

    def stopped_at_the_second(experiment, directory, log, **more):
        if trained:
            raise Stopped("stopped", 15)
        trained.append(directory.name)
        train(experiment, directory, log, **more)

    monkeypatch.setattr(methods, "train", stopped_at_the_second)
    assert scaling(tmp_path / "w", settings, *words, "--dry-run") == 0
    planned = cells(capsys.readouterr().out)[0]
    assert not (tmp_path / "w").exists()
    assert scaling(tmp_path / "w", settings, *words) == 143
    assert trained == ["1x16-2e06"] and not (tmp_path / "w" / "table.md").exists()
    monkeypatch.setattr(methods, "train", train)
    capsys.readouterr()
    assert scaling(tmp_path / "w", settings, *words) == 0
    said = capsys.readouterr().out
    assert "already at step" in said and "already evaluated" in said
    table = (tmp_path / "w" / "table.md").read_text()
    rows = cells(table)[0][1:]
    assert [row[0] for row in rows] == ["1x16", "1x16"] and rows[0][5] < rows[1][5]
    assert [row[:6] for row in rows] == planned[1:] and "ddlm evaluate" not in said
    for row, name in zip(rows, ("1x16-2e06", "1x16-4e06"), strict=True):
        (path,) = (tmp_path / "w" / name / "records").iterdir()
        assert row[6] == f"{json.loads(path.read_text())['value']:.4f}"
    assert "No fit of L(N, D)" in table and "runs: 2, but five constants" in table
    assert (tmp_path / "w" / "plot.png").read_bytes().startswith(b"\x89PNG")


CLIMB = ["--sizes", "1x16", "1x32", "2x32", "--budgets", "1e9", "4e9", "1.6e10"]


@pytest.fixture
def without_training(monkeypatch):
    """Runs give what L(N, D) says, and a little noise; of those asked for, the names in a list."""
    asked, noise = [], itertools.cycle([0.001, -0.002, 0.0015, 0.0, -0.001])

    def run(plan, method, log):
        asked.append(method.directory.name)
        experiment = method.resolved
        n, d = ladder._parameters(experiment), experiment.train.num_steps * 16 * 32
        value = (1.0 + 6 / n**0.3 + 30 / d**0.35) * math.exp(next(noise))
        return {"value": value, "standard_error": 0.01, "unit": "bits per character"}

    monkeypatch.setattr(methods, "_run", run)
    per_step = lambda e: 3 * e.model.flops_per_token(32) * 16 * 32  # noqa: E731, as they are counted, see above
    monkeypatch.setattr(ladder, "_step_flops", per_step)
    return asked


def test_a_check_trains_the_next_size_and_shows_it_beside_its_prediction(
    without_training, text, tmp_path
):
    assert scaling(tmp_path, text, *CLIMB, "--next", "4x64", "6.4e10") == 0
    assert len(without_training) == 9 and "4x64-6.4e10" not in without_training
    predicted = (tmp_path / "table.md").read_text()
    assert "Next, 4x64 with 6.42e+10 FLOPs" in predicted and "Measured" not in predicted
    assert cells(predicted)[0][0][-1] == "fit"
    without_training.clear()
    assert scaling(tmp_path, text, *CLIMB, "--next", "4x64", "6.4e10", "--check") == 0
    assert without_training[-1] == "4x64-6.4e10"
    checked = (tmp_path / "table.md").read_text()
    said = re.search(r"predicted (\S+) bits per character, 95 % from (\S+) to (\S+)\.\n", checked)
    value, low, high = map(float, said.groups())
    measured, again, difference = re.search(
        r"Measured ([\d.]+) \+- 0.0100, predicted ([\d.]+): (\S+), inside the interval", checked
    ).groups()
    assert float(again) == value and low <= float(measured) <= high
    assert float(difference) == pytest.approx(float(measured) - value, abs=2e-4)


def test_without_a_fit_nothing_is_predicted_or_checked(without_training, text, tmp_path):
    words = ["--sizes", "1x16", "1x32", "--budgets", "1e9", "--next", "2x32", "4e9", "--check"]
    assert scaling(tmp_path, text, *words) == 0
    assert without_training == ["1x16-1e09", "1x32-1e09"]
    assert "no run checks it: there is no fit" in (tmp_path / "table.md").read_text()


def test_a_run_that_diverged_is_shown_and_not_fitted(without_training, text, tmp_path, monkeypatch):
    run = methods._run
    lost = lambda plan, method, log: (  # noqa: E731
        None if method.directory.name == "1x16-1e09" else run(plan, method, log)
    )
    monkeypatch.setattr(methods, "_run", lost)
    assert scaling(tmp_path, text, *CLIMB) == 0
    table = (tmp_path / "table.md").read_text()
    assert cells(table)[0][1][6:8] == ["diverged", "-"] and "Fit of 8 runs" in table


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--sizes", "4", "--budgets", "1e9"], "--sizes 4: expected LAYERSxWIDTH, such as 4x128"),
        (["--sizes", "1x20", "--budgets", "1e9"], "model.num_heads = 2 goes with width 32"),
        (["--sizes", "1x16", "--budgets", "1e5"], "--budgets 100000: a step of 1x16 takes"),
        (["--sizes", "1x16", "--budgets", "-1"], "must be a number above 0"),
        (["--sizes", "1x16", "--budgets", "inf"], "must be a number above 0"),
        (["--sizes", "1x16", "--budgets", "1e9", "--check"], "--check needs a run to check"),
        (["--sizes", "1x16", "--budgets", "1e9", "--next", "1x16", "x"], "--next: x must be a numb"),
        (["--sizes", "1x16", "--budgets", "1e9", "--next", "1x16", "1e9"], "is a run of the ladder"),
        (["--sizes", "1x16", "--budgets", "1e9", "--split", "tset"], "split 'tset'"),
        (["--sizes", "1x16", "--budgets", "1e9", "--set", "init_from=x"], "starts from another run"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_before_anything_is_trained(arguments, words, text, tmp_path, capsys):
    assert scaling(tmp_path / "w", text, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error, error
    assert not list((tmp_path / "w").rglob("config.json"))
