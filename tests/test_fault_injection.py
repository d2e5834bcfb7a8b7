"""Damage, signals, kills, full disks and other devices: what a run does about them."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import on_devices
from test_programs import ROOT, SMOKE, arrays, metrics
from test_recovery import TINY
from test_training import experiment

from experiments import cli
from experiments.devices.sharding import make_mesh
from experiments.errors import Stopped, UserError
from experiments.overrides import load
from experiments.studies.measuring.killing import compared, kill_often
from experiments.training import monitor, recovery, trainer
from experiments.training.checkpoint_record import RECORD
from experiments.training.checkpoints import Checkpoints
from experiments.training.metrics import read_metric
from experiments.training.signals import Signals

SETTINGS = (*TINY, "train.keep_last=3", "train.log_every=1")


def run(workdir, *settings):
    """What a training run in this process says."""
    lines = []
    trainer.train(load(SMOKE, [*SETTINGS, *settings]), workdir, lines.append)
    return lines


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of 16 steps without interruption; checkpoints 8, 12 and 16."""
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    run(workdir)
    return workdir


@pytest.fixture
def copy(straight, tmp_path):
    shutil.copytree(straight, tmp_path / "copy")
    return tmp_path / "copy"


def damage(workdir, step, how="truncated"):
    """Damages the greatest file of a checkpoint by a bit, or its record, or cuts all files of arrays, or
    deletes the record."""
    folder = workdir / "checkpoints" / str(step)
    if how == "gone":
        (folder / RECORD).unlink()
        return
    paths = list(folder.glob("state/**/d/*"))
    if how != "truncated":
        paths = [folder / RECORD if how == "record" else max(paths, key=lambda p: p.stat().st_size)]
    for path in paths:
        raw = bytearray(path.read_bytes())
        # In a record it is a letter of a name, so that it can still be parsed.
        raw[raw.index(b"kernel") if how == "record" else len(raw) // 2] ^= 4
        path.write_bytes(raw[: len(raw) // 2] if how == "truncated" else raw)


def names(workdir):
    return sorted(p.name for p in (workdir / "checkpoints").iterdir())


def same(workdir, straight):
    assert arrays(workdir, 16) == arrays(straight, 16)
    assert metrics(workdir) == metrics(straight)


# Damage


def test_training_goes_on_from_the_newest_good_checkpoint_and_keeps_the_damaged(copy, straight):
    damage(copy, 16, "flipped")
    damage(copy, 12, "record")
    lines = [line for line in run(copy) if "is damaged" in line]
    assert [line.split()[1] for line in lines] == ["16", "12"]
    assert "the bits changed of" in lines[0] and "its hash differs" in lines[1]
    assert all("kept as" in line and line.endswith("continuing from step 8") for line in lines)
    assert names(copy) == ["12", "12.damaged", "16", "16.damaged", "8"]
    same(copy, straight)
    damage(copy, 16, "truncated")
    lines = [line for line in run(copy) if "is damaged" in line]
    assert len(lines) == 1 and lines[0].endswith("continuing from step 12")
    assert names(copy) == ["12", "12.damaged", "16", "16.damaged", "16.damaged.2", "8"]
    same(copy, straight)


def test_training_sets_a_folder_without_a_record_aside(copy, straight):
    damage(copy, 16, "gone")
    kept = copy / "checkpoints" / "16.damaged"
    line = (
        f"checkpoint 16 is damaged ({RECORD} is gone) and kept as {kept}; continuing from step 12"
    )
    assert line in run(copy)
    assert names(copy) == ["12", "16", "16.damaged", "8"] and not (kept / RECORD).exists()
    same(copy, straight)


@pytest.mark.parametrize("how", ["truncated", "gone"])
def test_where_all_are_damaged_training_ends_and_moves_nothing(copy, how):
    for step in (8, 12, 16):
        damage(copy, step, how)
    with pytest.raises(UserError, match="every checkpoint in") as caught:
        run(copy)
    assert "\n" not in str(caught.value) and names(copy) == ["12", "16", "8"]


@pytest.mark.parametrize("how", ["record", "gone"])
def test_a_damaged_record_of_an_older_step_stops_no_save_and_is_never_deleted(copy, how):
    damage(copy, 8, how)
    run(copy, "train.num_steps=32")
    assert names(copy) == ["24", "28", "32", "8.damaged"]


@pytest.mark.parametrize("command", [["evaluate"], ["sample", "--num", "1"]])
def test_reading_rejects_a_damaged_newest_step_and_names_the_good_ones(copy, capsys, command):
    damage(copy, 16)
    damage(copy, 12)
    before = names(copy)
    assert cli.guarded(command[0], ["--workdir", str(copy), *command[1:]]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "16 is damaged" in error and "good steps: 8;" in error
    for how in ("record", "gone"):
        damage(copy, 16, how)
        assert cli.guarded(command[0], ["--workdir", str(copy), *command[1:]]) == 2
        error = capsys.readouterr().err
        assert "16 is damaged" in error and "good steps: 8;" in error
    assert names(copy) == before


def test_where_no_step_is_good_reading_says_what_helps(copy, capsys):
    for step in (8, 12, 16):
        damage(copy, step)
    assert cli.guarded("evaluate", ["--workdir", str(copy)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--step" not in error
    assert "16 is damaged: cannot read " in error and "handler" not in error
    end = "; no step is good; restore one from a copy, or train again in another --workdir\n"
    assert error.endswith(end)


def test_a_checkpoint_from_before_health_was_saved_is_continued(tmp_path):
    e = experiment(*TINY)
    like = trainer.described_state(e, make_mesh(e.mesh))
    state = jax.tree.map(lambda x: jax.device_put(np.ones(x.shape, x.dtype), x.sharding), like)
    older = {name: part for name, part in state.items() if name != "health"}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, older, {})
    found, step = recovery.newest_state(checkpoints, like, lambda meta: None, print)
    assert step == 3 and found.keys() == state.keys()
    assert [float(x) for x in jax.tree.leaves(found["health"])] == [0, 0, 0, 0]


# Signals


def signalled(monkeypatch, name, owner, workdir, call=1):
    """What Stopped says of a run that gets SIGTERM at the start of the call of this function."""
    real, calls = getattr(owner, name), []

    def wrapped(*arguments, **options):
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(Stopped) as caught:
        patch.setattr(owner, name, wrapped)
        run(workdir)
    assert caught.value.signal == signal.SIGTERM
    return str(caught.value)


@pytest.mark.parametrize("call, step", [(1, 8), (2, 16)])
def test_sigterm_in_an_evaluation_saves_at_once_and_the_continuation_evaluates(
    straight, tmp_path, monkeypatch, call, step
):
    said = signalled(monkeypatch, "estimate_parts", monitor, tmp_path, call)
    assert f"after step {step}, which is saved" in said
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() == step and checkpoints.meta(step)["evaluation_pending"]
    assert all(m["step"] < step for m in metrics(tmp_path) if "eval/bound_bits_per_char" in m)
    lines = run(tmp_path)
    assert any(line.startswith(f"step {step}: validation") for line in lines)
    same(tmp_path, straight)
    whole = Checkpoints(straight / "checkpoints")
    assert checkpoints.best() == whole.best()
    assert checkpoints.fingerprint(8) == whole.fingerprint(8)


def test_sigterm_during_a_save_ends_with_a_save(straight, tmp_path, monkeypatch):
    said = signalled(monkeypatch, "save", Checkpoints, tmp_path, 1)
    assert "after step 4, which is saved" in said
    assert Checkpoints(tmp_path / "checkpoints").steps() == [4]
    run(tmp_path)
    same(tmp_path, straight)


COMPILING = """
import hashlib, sys
from experiments import cli
from experiments.training import trainer
def slow(experiment, mesh=None):
    print("compiling", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)  # as compilation, it hears no signal
trainer.make_train_step = slow
sys.exit(cli.guarded("train", sys.argv[1:]))
"""


def test_sigterm_while_compiling_ends_at_once(tmp_path):
    line = [sys.executable, "-c", COMPILING, "--config", SMOKE, "--workdir", str(tmp_path / "w")]
    with subprocess.Popen(line, cwd=ROOT, stdout=-1, stderr=-1, text=True) as process:
        while process.stdout.readline() != "compiling\n":
            assert process.poll() is None, process.stderr.read()
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            error = process.communicate(timeout=10)[1]
        finally:
            process.kill()
    assert process.returncode == 128 + 15 and time.monotonic() - start < 5
    assert error == "stopped by SIGTERM before a step was made; there was nothing to save\n"
    assert Checkpoints(tmp_path / "w" / "checkpoints").steps() == []


def test_signals_leave_handlers_as_they_were_and_a_busy_run_only_notes():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with Signals() as signals:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        signals.idle = False
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


# Kills


@pytest.mark.representatives()
def test_killed_at_any_moment_nothing_committed_is_lost(tmp_path):
    settings = [*TINY, "train.log_every=1", "train.checkpoint_every=5", "train.eval_every=100"]
    counts = kill_often(SMOKE, tmp_path, settings, kills=2, seed=2, log=print)
    assert counts["kills"] == 2 and counts["committed checkpoints lost"] == 0
    assert counts["kills that left a half-written save"] >= 1
    assert counts["checkpoints found damaged"] == 0
    after = compared(SMOKE, tmp_path, settings, counts["last committed step"] + 5)
    assert after["end bit-identical to the uninterrupted run"]
    assert after["metrics equal, but for times"]


# Full disks


class full_disk:
    """Inside, no file grows beyond so many bytes."""

    def __init__(self, size):
        self.size = size

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *error):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_a_save_on_a_full_disk_is_one_line_and_the_run_goes_on_later(straight, tmp_path, capfd):
    run(tmp_path, "train.num_steps=8")
    with full_disk(1 << 14), pytest.raises(UserError, match="could not be saved") as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value) and "earlier steps are intact" in str(caught.value)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [4, 8]
    assert capfd.readouterr().err == ""
    run(tmp_path)
    same(tmp_path, straight)


def test_metrics_that_are_gone_are_told(copy, straight):
    (copy / "metrics.jsonl").unlink()
    assert not any("metrics.jsonl" in line for line in run(straight))
    said = f"{copy / 'metrics.jsonl'} is missing; a new one starts after step 16"
    assert said in run(copy, "train.num_steps=17")


# Other devices

PART = """
import json, sys
from pathlib import Path
from experiments.overrides import load
from experiments.training.trainer import train
config, *parts = json.loads(sys.argv[1])
for workdir, settings in parts:
    train(load(config, settings), Path(workdir))
"""


SPREAD = ("train.batch_size=8", "evaluation.batch_size=8")


def on(devices, *parts):
    """Trains each (workdir, number of steps), one after the other, on so many devices."""
    settings = [*SETTINGS, *SPREAD]
    given = [SMOKE, *((str(w), [*settings, f"train.num_steps={n}"]) for w, n in parts)]
    done = subprocess.run(
        [sys.executable, "-c", PART, json.dumps(given)],
        env=on_devices(devices),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.representatives()
def test_a_run_moves_between_8_and_4_and_1_devices_and_back(tmp_path):
    whole, again, moved = (tmp_path / name for name in ("whole", "again", "moved"))
    on(8, (whole, 16), (again, 4), (again, 16), (moved, 4))
    on(4, (moved, 8))
    run(moved, *SPREAD, "train.num_steps=12")  # on the one device of this process
    on(8, (moved, 16))
    same(again, whole)
    assert [m["step"] for m in metrics(moved)] == [m["step"] for m in metrics(whole)]
    for name in ("train/loss_nats_per_token", "train/grad_norm", "eval/bound_bits_per_char"):
        straight, found = (np.array(read_metric(w, name)) for w in (whole, moved))
        np.testing.assert_allclose(found, straight, rtol=2e-4, err_msg=name)
    data = [Checkpoints(w / "checkpoints").meta(16)["data"] for w in (whole, moved)]
    assert data[0] == data[1] and data[0]["next_example"] == 16 * 8
