"""A process, schedule, sampler, network, optimiser, learning rate, time weight, token loss, token weight
and tracker of one's own, each in one file outside of the packages: used by commands, named nowhere in
the tree."""

import json
from pathlib import Path

import pytest

from experiments import evaluate, sample, train
from experiments.overrides import load
from experiments.planning.compiled import without_data

HERE = Path(__file__).parent / "extension"
FILES = {path.stem: path for path in sorted(HERE.glob("*.py"))}
SHORT = ["--set", "train.num_steps=4", "--set", "train.eval_every=4", "--set",
         "train.log_every=2", "--set", "evaluation.max_sequences=8"]  # fmt: skip


STATELESS = ("learning_rate", "time_weight", "token_loss", "token_weight", "sampler")
KINDS = [
    "backbone",
    "learning_rate",
    "optimizer",
    "process",
    "sampler",
    "schedule",
    "time_weight",
    "token_loss",
    "token_weight",
    "tracker",
]


def test_there_is_one_of_each_and_none_is_long():
    assert list(FILES) == KINDS
    for path in FILES.values():
        assert len(path.read_text().splitlines()) < 60, path
    lengths = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    assert min(lengths, key=lengths.get) == "schedule"


def trained(name, tmp_path, capsys):
    """The options of a run of the file that was trained, and continued where it has a state."""
    run = ["--config", str(FILES[name]), "--workdir", str(tmp_path / "run")]
    train.main([*run, *SHORT])
    if name in STATELESS:
        return run
    train.main([*run, *SHORT, "--set", "train.num_steps=6"])
    assert "continuing after step 4" in capsys.readouterr().out
    return run


@pytest.mark.parametrize(
    "name", ["learning_rate", "optimizer", "time_weight", "token_loss", "token_weight"]
)
def test_a_part_of_training_of_ones_own_is_used_by_commands(name, tmp_path, capsys):
    trained(name, tmp_path, capsys)


def test_a_tracker_of_ones_own_has_all_metrics_of_a_run_and_its_continuation(tmp_path, capsys):
    trained("tracker", tmp_path, capsys)
    run = tmp_path / "run"
    tracked = [json.loads(line) for line in (run / "tracked.jsonl").read_text().splitlines()]
    written = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line for line in tracked if line[1] == "run 27"] == [
        [what, "run 27"] for what in ("begun", "done") * 2
    ]
    assert [{"step": step, **values} for step, values in tracked if values != "run 27"] == written


@pytest.mark.parametrize("name", ["backbone", "process", "sampler", "schedule"])
def test_a_part_of_ones_own_is_trained_evaluated_and_sampled(name, tmp_path, capsys):
    run = trained(name, tmp_path, capsys)
    record = evaluate.main([*run, "--max-sequences", "8", "--num-times", "2"])
    assert 0 < record["value"] < 10
    sample.main([*run, "--num", "2", "--out", str(tmp_path / "s.jsonl")])
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(len(line["text"]) == 32 for line in lines)


def test_nothing_in_the_tree_names_them():
    names = ["CubicMask", "Squared(", "LocalMixer", "Lion", "Triangles", "Hard(", "HalfWave"]
    root = HERE.parent.parent
    for package in ("diffusion", "models", "samplers", "configs", "experiments"):
        for path in (root / package).rglob("*.py"):
            text = path.read_text()
            assert not [name for name in names if name in text], path


def test_a_network_of_ones_own_is_planned_whatever_its_settings_are():
    planned = without_data(load(str(FILES["backbone"])), None).model
    assert type(planned).__name__ == "LocalMixer" and planned.vocab_size == 27
