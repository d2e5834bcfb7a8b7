"""Several seeds of a config: the formula, what counts as another seed, and the comparison that trains
them."""

import json
import math

import numpy as np
import pytest
from record_examples import ROOT, TEXT8, cells, changed, run, save
from scipy import stats

from experiments import cli
from experiments.comparison.methods import Result, table
from experiments.comparison.record_groups import Entry, group, places, read_entries
from experiments.comparison.seeds import over_seeds
from experiments.figure import draw


def test_the_error_joins_that_of_the_text_and_that_of_the_mean_over_seeds():
    three = over_seeds([(1.0, 0.02), (1.2, 0.03), (1.4, 0.04)])
    factor = stats.t.ppf(stats.norm.cdf(2), 2) / 2
    assert (three.count, three.mean, three.spread) == (3, pytest.approx(1.2), pytest.approx(0.2))
    assert three.error == pytest.approx(math.sqrt(0.03**2 + (factor * 0.2) ** 2 / 3))
    assert 2.2 < factor < 2.3
    same = over_seeds([(1.0, 0.02)] * 50)  # the same text: seeds do not make its error smaller
    assert (same.spread, same.error) == (0, pytest.approx(0.02))


def test_one_seed_has_no_spread_and_an_unknown_error_stays_unknown():
    one = over_seeds([(1.0, 0.02)])
    assert (one.count, one.mean, one.error) == (1, 1.0, 0.02) and math.isnan(one.spread)
    assert math.isnan(over_seeds([(1.0, 0.02), (2.0, math.nan)]).error)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_two_errors_hold_the_mean_of_all_seeds_as_often_as_of_a_normal_distribution(count):
    draws = np.random.default_rng(0).normal(3.0, 0.1, (3000, count))
    found = [over_seeds([(v, 0.0) for v in values]) for values in draws]
    inside = np.mean([abs(f.mean - 3.0) < 2 * f.error for f in found])
    assert abs(inside - 0.9545) < 4 * math.sqrt(0.9545 * 0.0455 / 3000)


def record_of(value, fingerprint, error=0.001):
    changes = {"value": value, "standard_error": error}
    return changed({**changes, "checkpoint_fingerprint": fingerprint * 16})


def test_methods_are_in_order_only_where_seeds_and_text_both_say_so():
    one = Entry("one", record_of(1.40, "a"))
    other = Entry("other", record_of(1.43, "b"))
    assert group([one, other])[0].places == [(1, 1), (2, 2)]  # by the text alone
    noisy = Entry("noisy", record_of(1.38, "c"), (record_of(1.40, "d"), record_of(1.42, "e")))
    (members,) = group([other, noisy])
    assert [e.name for e in members.entries] == ["noisy", "other"]
    assert members.places == [(1, 2), (1, 2)]
    steady = Entry("steady", record_of(1.399, "c"), (record_of(1.4, "d"), record_of(1.401, "e")))
    assert group([other, steady])[0].places == [(1, 1), (2, 2)]


CONFIG = {
    "_type": "Experiment",
    "optimizer": {"schedule": {"peak_lr": 0.1}},
    "train": {"seed": 0, "log_every": 1, "num_steps": 1000},
}


def stored(tmp_path, name, record, **settings):
    config = json.loads(json.dumps(CONFIG))
    for path, value in settings.items():
        part, setting = path.split("__")
        config[part][setting] = value
    save(tmp_path / name / "config.json", json.dumps(config))
    return save(tmp_path / name / "records" / "test-1.json", record)


@pytest.mark.parametrize(
    "settings, evaluated, rows",
    [
        ({"train__seed": 1}, {}, 1),
        ({"train__seed": 1, "train__log_every": 9}, {}, 1),  # which changes nothing
        ({"train__seed": 1, "optimizer__schedule": {"peak_lr": 0.2}}, {}, 2),
        ({"train__seed": 1}, {"checkpoint_step": 900}, 2),
        ({"train__seed": 1}, {"ema": False}, 2),
        ({"train__seed": 1}, {"num_times": 3}, 2),
        ({}, {}, 2),  # the same seed twice is no other draw
    ],
)
def test_records_share_a_row_where_their_runs_differ_in_the_seed_alone(
    settings, evaluated, rows, tmp_path
):
    paths = [
        stored(tmp_path, "b", record_of(1.42, "b") | evaluated, **settings),
        stored(tmp_path, "a", record_of(1.40, "a")),
    ]
    entries, left_out = read_entries(paths)
    assert len(entries) == rows and not left_out


def test_a_row_of_several_seeds_has_the_name_of_the_lowest_and_mean_spread_and_error(tmp_path):
    paths = [stored(tmp_path, "b", record_of(1.42, "b"), train__seed=1)]
    paths += [stored(tmp_path, "a", record_of(1.40, "a"))]
    text = run(tmp_path, paths, "p.svg")
    head, found = cells(text)[0]
    whole = over_seeds([(1.40, 0.001), (1.42, 0.001)])
    assert head[2:6] == ["seeds", "bits per character", "spread", "standard error"]
    assert found[:3] == ["1", "a (MDLM)", "2"]
    assert found[3:6] == [f"{x:.4f}" for x in (whole.mean, whole.spread, whole.error)]
    assert found[-1] == "1,000 EMA, aaaaaaaa bbbbbbbb"
    assert "The spread is the standard deviation between trainings" in text


def test_records_without_a_readable_config_stand_alone(tmp_path):
    paths = [stored(tmp_path, n, record_of(1.4, n), train__seed=s) for s, n in enumerate("abc")]
    (tmp_path / "a" / "config.json").write_text("{")
    (tmp_path / "b" / "config.json").write_text("[1]")
    assert [entry.others for entry in read_entries(paths)[0]] == [(), (), ()]


def result(name, values, error=0.01):
    shared = {"kind": "bound", "terms_nats_per_token": {}, "tokens": 1, "characters": 1}
    records = [v and {"value": v, "standard_error": error} | shared for v in values]
    return Result(name, "P", tuple(records), tuple([(1, 3.0), (2, 2.5)] for _ in values), None)


def test_the_table_of_a_comparison_has_places_by_both_errors_and_counts_what_diverged():
    results = [result("a", [1.0, 1.1]), result("b", [1.3, 1.31]), result("c", [1.0, None])]
    rows = cells(table(results))[0]
    assert rows[0][:7] == [
        "place", "seeds", "method", "kind", "bits per character", "spread", "standard error",
    ]  # fmt: skip
    measured = [results[0].measured(), results[1].measured()]
    assert [row[:7] for row in rows[1:3]] == [
        ["1-2", "2", f"{name} (P)", "bound", f"{m.mean:.4f}", f"{m.spread:.4f}", f"{m.error:.4f}"]
        for name, m in zip("ab", measured, strict=True)
    ]
    assert places([(m.mean, 0.01) for m in measured]) == [(1, 1), (2, 2)]  # by the text alone
    assert rows[3][:5] == ["-", "2", "c (P)", "-", "diverged (1 of 2)"]
    image = draw(results, "title", ".svg").decode()
    assert image.count("<!-- 1.050 bound -->") == image.count("<!-- diverged -->") == 1


OTHER = """
from dataclasses import replace
from configs.smoke import get_config as base
from diffusion.radd import RADD

def get_config():
    return replace(base(), process=RADD())
"""


def compare(workdir, *arguments):
    sets = ["train.num_steps=2", "train.eval_every=9", "model.num_layers=1", "model.width=8"]
    words = [word for item in (*sets, "evaluation.num_times=1") for word in ("--set", item)]
    return cli.guarded("compare", ["--workdir", str(workdir), *words, *arguments])


@pytest.mark.representatives()
def test_the_command_trains_the_seeds_that_are_missing_and_records_say_the_same(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "text.txt").write_text("the people of the union and of the states " * 200)
    (tmp_path / "other.py").write_text(OTHER)
    words = ["--config", str(ROOT / "configs/smoke.py"), "--config", str(tmp_path / "other.py")]
    words += ["--set", f"data.path={tmp_path / 'text.txt'}", "--seeds", "2"]
    assert compare(tmp_path / "w", *words) == 0
    said = capsys.readouterr().out
    assert "; 2 seeds" in said and "4/4  other.seed1, about 0m" in said
    names = ["smoke", "other", "smoke.seed1", "other.seed1"]
    paths = {name: tmp_path / "w" / name / "records" / "test-2.json" for name in names}
    records = {name: json.loads(path.read_text()) for name, path in paths.items()}
    rows = cells((tmp_path / "w" / "table.md").read_text())[0][1:]
    for row in rows:
        name = row[2].split()[0]
        seeds = [records[name], records[f"{name}.seed1"]]
        assert seeds[0]["checkpoint_fingerprint"] != seeds[1]["checkpoint_fingerprint"]
        whole = over_seeds([(r["value"], r["standard_error"]) for r in seeds])
        assert row[4:7] == [f"{x:.4f}" for x in (whole.mean, whole.spread, whole.error)]
    again = cells(run(tmp_path, [str(path) for path in paths.values()]))[0][1:]
    assert [[row[0], row[2], *row[3:6]] for row in again] == [
        [row[0], row[1], *row[4:7]] for row in rows
    ]
    monkeypatch.setattr(
        "experiments.comparison.methods.evaluate_run", None
    )  # nothing is done twice
    assert compare(tmp_path / "w", *words) == 0
    assert cells((tmp_path / "w" / "table.md").read_text())[0][1:] == rows


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--seeds", "0"], "--seeds: 0 must be a whole number from 1"),
        (["--seeds", "2", "--set", f"train.seed={2**32 - 1}"], "outside 0 to 4294967295"),
        (["--seeds", "2", "--config", "{seed1}"], "two runs would both be named smoke.seed1"),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path, capsys):
    for name in ("other", "smoke.seed1"):
        (tmp_path / f"{name}.py").write_text(OTHER)
    arguments = [word.format(seed1=tmp_path / "smoke.seed1.py") for word in arguments]
    configs = ["--config", str(ROOT / "configs/smoke.py"), "--config", str(tmp_path / "other.py")]
    assert compare(tmp_path / "w", *configs, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert not (tmp_path / "w").exists()


def test_seeds_are_for_training_not_for_records(tmp_path, capsys):
    assert cli.guarded("compare", [save(tmp_path / "r.json", TEXT8), "--seeds", "2"]) == 2
    assert "--seeds is for training" in capsys.readouterr().err
