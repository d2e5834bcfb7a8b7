"""ddlm train --dry-run: what a run would be, without one."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from conftest import SMALL

from experiments import cli
from experiments.errors import UserError
from experiments.locks import LOCK, held
from experiments.overrides import load
from experiments.training import dry_run as module
from experiments.training import workdir as workdir_module
from experiments.training.checkpoints import Checkpoints
from experiments.training.dry_run import DryRun, report

ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "configs" / "sotu" / "mdlm.py")
SETS = [word for setting in SMALL for word in ("--set", setting)]


def train(*arguments):
    return cli.guarded("train", ["--config", CONFIG, *SETS, *map(str, arguments)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps of the smallest model."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    assert train("--workdir", workdir) == 0
    return workdir


def files(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def rows(out):
    """The last lines of a dry run, by what stands at their beginning."""
    return dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines() if "  " in line)


def test_it_says_what_the_run_then_is_and_writes_nothing(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = files(run.parent)
    assert train("--workdir", tmp_path / "new" / "run", "--dry-run", "--set", "train.seed=7") == 0
    out = capsys.readouterr().out
    assert files(tmp_path) == {} and files(run.parent) == before
    assert {"train.seed = 7", "process = MDLM", "process.vocab_size = 27"} <= set(out.splitlines())
    meta = Checkpoints(run / "checkpoints")._record(2)
    stored = [a for name, a in meta["arrays"].items() if name.startswith("params/")]
    said = rows(out)
    assert said["parameters"] == f"{sum(math.prod(shape) for _, shape, _ in stored):,}"
    assert said["tokens"] == "512 a step, 1,024 in all"
    assert said["workdir"] == f"{tmp_path / 'new' / 'run'}, a new run"
    assert re.fullmatch(r"0\.0\d GB of [\d.,]+ GB of a device", said["memory"])
    assert out.endswith("\na dry run: nothing is written\n")


def test_it_continues_a_run_as_training_would(run, capsys):
    before = files(run)
    assert train("--workdir", run, "--dry-run", "--set", "train.num_steps=5") == 0
    said = rows(capsys.readouterr().out)
    assert said["workdir"] == f"{run}, continued after step 2" and said["steps left"] == "3"
    assert files(run) == before


@pytest.mark.parametrize(
    "words, said",
    [
        (["--set", "model.width=32"], "holds a run of another config (model.width: 16 -> 32)"),
        (
            ["--set", "data.path=TEXT", "--set", "data.splits=('*','5%','5%')"],
            "was trained on other text than",
        ),
        (["--config", "none.py"], "config file none.py does not exist"),
    ],
)
def test_what_training_rejects_it_rejects(words, said, run, tmp_path, capsys):
    (tmp_path / "text").write_text("some other text " * 1000)
    words = [word.replace("TEXT", str(tmp_path / "text")) for word in words]
    codes = [train("--workdir", run, *words, *dry) for dry in ([], ["--dry-run"])]
    errors = capsys.readouterr().err.splitlines()
    assert codes == [2, 2] and errors[0] == errors[1] and said in errors[0]


def test_a_workdir_that_cannot_be_made_or_is_in_use_is_rejected(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for workdir, said in [
        (tmp_path / "file", "is a file; give a directory"),
        (tmp_path / "file" / "run", f"cannot be written ({tmp_path / 'file'} is not a directory)"),
    ]:
        assert train("--workdir", workdir, "--dry-run") == 2
        assert said in capsys.readouterr().err
    with held(run / LOCK, "it"):
        assert train("--workdir", run, "--dry-run") == 2
    assert f"workdir {run} is in use by another process" in capsys.readouterr().err


def test_only_a_dry_run_goes_without_a_workdir(capsys):
    assert train() == 2
    assert "required: --workdir (or --dry-run)" in capsys.readouterr().err
    for dry in ([], ["--dry-run"]):
        assert train("--workdir", "", *dry) == 2
        error = capsys.readouterr().err
        assert "--workdir is empty; give the name" in error and error.count("\n") == 1


def test_the_report_counts_what_is_left():
    experiment = load(
        CONFIG,
        [
            "train.num_steps=40",
            "train.eval_every=20",
            "train.checkpoint_every=10",
            "train.batch_size=32",
        ],
    )
    run = DryRun(experiment, 1234, 10, 0, 4 * 10**9, first=2.0, step=0.5)
    assert (run.steps, run.seconds, run.tokens_per_step) == (30, 2.0 + 29 * 0.5, 32 * 128)
    said = rows(report(run, None))
    assert said["workdir"] == "none given" and said["memory"] == "unknown, of 4.00 GB of a device"
    assert said["step"] == "0.5 s, 2.00 steps/s, 8,192 tokens/s"
    assert said["time"] == "0m16s; evaluations (2) and checkpoints (3) come on top"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d, if it begins now", said["end"])
    done = DryRun(experiment, 1234, 40, 0, 1, first=2.0, step=0.5)
    assert done.seconds == 0 and "end" not in rows(report(done, None))
    assert rows(report(done, None))["steps left"] == "none: nothing would be trained"


def test_the_first_process_says_how_many_steps_are_timed_and_why_none_are(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "first_says", lambda numbers: [7])
    steps = []
    ready = SimpleNamespace(
        step=lambda state, batch: (state, steps.append(batch)),
        batches=lambda start: iter([((),)] * 99),
    )
    module._timed(ready, {}, began=0.0)
    assert len(steps) == 2 + 7
    monkeypatch.setattr(workdir_module, "is_first", lambda: False)
    (tmp_path / "file").write_text("")
    workdir_module.check_writable(tmp_path / "file")  # the others do not look
    monkeypatch.setattr(workdir_module, "anywhere", lambda what: True)
    with pytest.raises(UserError, match="the first process says why not"):
        workdir_module.check_writable(tmp_path)


def test_steps_are_timed_after_the_first_and_for_some_seconds(monkeypatch):
    clock = SimpleNamespace(now=0.0, steps=0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)

    def step(state, batch):
        clock.now += 100.0 if clock.steps == 0 else 0.25
        clock.steps += 1
        return state, jnp.zeros(())

    ready = SimpleNamespace(step=step, batches=lambda start: iter([((),)] * 99))
    assert module._timed(ready, {}, began=-1.0) == (101.0, 0.25)
    assert clock.steps == 2 + 3.0 / 0.25
