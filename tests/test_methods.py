"""Every config of the embedded corpus through the commands: train, evaluate, sample, on a small text."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from experiments import cli
from experiments.checkpoints import Checkpoints
from experiments.runs import load_run

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(p.stem for p in (ROOT / "configs" / "sotu").glob("*.py") if p.stem != "__init__")
SMALL = [
    "data.length=16", "model.num_layers=1", "model.width=16", "model.num_heads=2",
    "model.condition_width=8", "train.batch_size=4", "train.num_steps=2", "train.log_every=1",
    "train.eval_every=2", "train.checkpoint_every=2", "optimizer.warmup_steps=0",
    "evaluation.max_sequences=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words = [
        "the",
        "state",
        "of",
        "union",
        "and",
        "we",
        "people",
        "question",
        "jazz",
        "fix",
        "kept",
    ]
    path.write_text(" ".join(random.Random(0).choices(words, k=1500)))
    return path


def train(name, workdir, text, *settings):
    sets = [w for s in [*SMALL, f"data.path={text}", *settings] for w in ("--set", s)]
    config = str(ROOT / "configs" / "sotu" / f"{name}.py")
    return cli.guarded("train", ["--config", config, "--workdir", str(workdir), *sets])


@pytest.mark.parametrize("name", CONFIGS)
def test_method_trains_evaluates_and_samples_from_the_command_line(name, text, tmp_path, capsys):
    workdir = tmp_path / name
    assert train(name, workdir, text) == 0, capsys.readouterr().err
    where = ["--workdir", str(workdir)]
    assert cli.guarded("evaluate", [*where, "--split", "test", "--num-times", "2"]) == 0
    record = json.loads((workdir / "records" / "test-2.json").read_text())
    assert record["kind"] == "bound" and 3 < record["value"] < 30
    terms = record["terms_nats_per_token"]
    assert set(terms) <= {"diffusion", "prior", "reconstruction"} and min(terms.values()) >= 0
    assert cli.guarded("sample", [*where, "--num", "2", "--steps", "3", "--prompt", "we "]) == 0
    samples = [x for x in capsys.readouterr().out.splitlines() if x.startswith("[")]
    assert len(samples) == 2 and all(x[4:].startswith("we ") and len(x) == 20 for x in samples)


def test_a_learned_schedule_is_trained_saved_averaged_and_resumed(text, tmp_path):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert train("genmd4", straight, text, "train.num_steps=4") == 0
    assert train("genmd4", resumed, text) == 0
    assert train("genmd4", resumed, text, "train.num_steps=4") == 0
    digests = [Checkpoints(w / "checkpoints")._record(4)["arrays"] for w in (straight, resumed)]
    assert digests[0] == digests[1] and any("theta" in name for name in digests[0])
    run = load_run(str(straight), ema=False)
    learned = run.experiment.bind(run.params).power
    assert (
        np.abs(learned - 1).max() > 1e-4 and np.abs(run.experiment.process.power - 1).max() < 1e-6
    )


def test_the_published_spindle_is_reported_as_an_estimate(text, tmp_path):
    workdir = tmp_path / "published"
    settings = ["process.num_steps=8", "process.posterior=published"]
    assert train("spindle", workdir, text, *settings) == 0
    assert cli.guarded("evaluate", ["--workdir", str(workdir), "--split", "test"]) == 0
    record = json.loads((workdir / "records" / "test-2.json").read_text())
    assert record["kind"] == "estimate"
