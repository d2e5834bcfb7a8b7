"""Two processes on loopback: one run, the same as in one process, and what they do when one fails."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import SMALL, on_devices

from experiments.cli import guarded
from experiments.devices.distributed import start
from experiments.errors import UserError
from experiments.runs import load_run
from experiments.training.checkpoints import Checkpoints

ROOT = Path(__file__).parent.parent
CONFIG = "configs/sotu/mdlm.py"
# What is repeated overrides what is in SMALL.
TRAIN = (*SMALL, "train.batch_size=8", "train.num_steps=4", "train.eval_every=4", "mesh.fsdp=2")

# Commands one after the other, in a process that joins but once; it ends with the first code but 0.
SEVERAL = """
import json, sys
from experiments import cli
from experiments.devices import distributed

distributed.start(sys.argv[2:], stop_together=True)
for line in json.loads(sys.argv[1]):
    if code := cli.guarded(*line):
        break
cli._exit(code)
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def settings(*values):
    return [part for value in values for part in ("--set", value)]


def training(workdir, *values):
    line = ["--config", CONFIG, "--workdir", str(workdir), *settings(*TRAIN, *values)]
    return "train", line


class Pair:
    """Two processes with some virtual devices each, `lines[i]` the command of each."""

    def __init__(self, *lines, devices=2):
        port = free_port()
        self.processes = [
            subprocess.Popen(
                [*line, f"127.0.0.1:{port}", "2", str(number)], env=on_devices(devices), cwd=ROOT,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for number, line in enumerate(lines)
        ]  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self):
        """(codes, what was said, errors), each of both."""
        said, errors = zip(*(p.communicate(timeout=180) for p in self.processes), strict=True)
        return [p.returncode for p in self.processes], said, errors


def both(*first, second=None, devices=2):
    """Waits for two processes that do the commands `first`, or the second `second`."""
    lines = [
        [sys.executable, "-c", SEVERAL, json.dumps(commands)]
        for commands in (first, second or first)
    ]
    with Pair(*lines, devices=devices) as pair:
        return pair.wait()


def together(*values):
    """A training run in two processes."""
    command, line = training(*values)
    return Pair(*[[sys.executable, "-m", f"experiments.{command}", *line, "--distributed"]] * 2)


def alone(*commands):
    for name, line in commands:
        assert guarded(name, list(line)) == 0


def metrics(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in x.items() if not k.startswith("perf/")} for x in lines]


def params(workdir):
    return jax.tree.leaves(load_run(str(workdir), overrides=["mesh.fsdp=1"]).params)


def after(workdir):
    """What is done with a trained run, and into which files."""
    record, samples = (str(workdir / name) for name in ("record.json", "samples.jsonl"))
    line = ["--workdir", str(workdir)]
    few = ["--max-sequences", "6", "--batch-size", "4", "--num-times", "2"]
    return (
        ("evaluate", [*line, *few, "--out", record]),
        ("sample", [*line, "--num", "5", "--steps", "3", "--prompt", "the", "--out", samples]),
    )


# In the first mesh each process has half of the rows, in the second both have all of them.
@pytest.mark.parametrize(
    "devices, mesh", [(2, ["mesh.tensor=2"]), (1, ["mesh.fsdp=1", "mesh.tensor=2"])]
)
def test_two_processes_do_what_one_does(tmp_path, devices, mesh):
    one, two = tmp_path / "one", tmp_path / "two"
    codes, said, errors = both(training(two, *mesh), *after(two), devices=devices)
    assert codes == [0, 0], errors
    assert said[1] == "" and "trained to step 4" in said[0] and "record: " in said[0]
    assert f"{2 * devices} x cpu" in said[0]
    alone(training(one, "mesh.fsdp=1"), *after(one))

    assert len(metrics(one)) == len(metrics(two)) == 5
    for a, b in zip(metrics(one), metrics(two), strict=True):
        assert a == pytest.approx(b, rel=2e-5)
    for a, b in zip(params(one), params(two), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    mine, its = (json.loads((w / "record.json").read_text()) for w in (one, two))
    for name in ("value", "nats_per_token", "tokens", "sequences"):
        assert mine[name] == pytest.approx(its[name], rel=2e-5), name
    texts = [
        [json.loads(line)["text"] for line in (w / "samples.jsonl").read_text().splitlines()]
        for w in (one, two)
    ]
    assert len(texts[0]) == 5 and texts[0] == texts[1]
    # What two have saved, one goes on from.
    shutil.copytree(two / "checkpoints", tmp_path / "copy" / "checkpoints")
    alone(training(tmp_path / "copy", "mesh.fsdp=1", "train.num_steps=6"))
    alone(training(one, "mesh.fsdp=1", "train.num_steps=6"))
    assert metrics(tmp_path / "copy")[-1] == pytest.approx(metrics(one)[-1], rel=5e-5)


def begin(pair, lines):
    """Waits until the first process has made more steps."""
    for line in pair.processes[0].stdout:
        lines.append(line)
        if line.startswith("step ") and sum(x.startswith("step ") for x in lines) > 3:
            return
    raise AssertionError(pair.wait())


def test_one_signal_stops_both_one_kill_ends_both_and_what_is_lost_of_one_is_set_aside(tmp_path):
    often = ("train.num_steps=1000000", "train.eval_every=1000000", "train.checkpoint_every=20")
    with together(tmp_path, *often) as pair:
        begin(pair, [])
        pair.processes[1].send_signal(signal.SIGTERM)
        codes, said, errors = pair.wait()
    assert codes == [143, 143], errors
    line = errors[0].splitlines()[-1]
    assert errors[1].splitlines()[-1] == f"process 1: {line}"
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    stopped = int(line.removeprefix("stopped by SIGTERM after step ").split(",")[0])
    assert checkpoints.latest() == stopped

    lines = []
    with together(tmp_path, *often) as pair:
        begin(pair, lines)
        before = checkpoints.latest()
        while checkpoints.latest() == before:  # of which both write their parts
            time.sleep(0.01)
        # Some steps later: amid a save the other would learn of it after 100 seconds.
        later = f"step {checkpoints.latest() + 5}/"
        next(line for line in pair.processes[0].stdout if line.startswith(later))
        pair.processes[1].kill()
        codes, said, errors = pair.wait()
    assert f"continuing after step {stopped}\n" in lines
    assert codes == [1, -9]
    assert "error: another process is gone" in errors[0].splitlines()[-1]

    last, other = checkpoints.steps()[::-1][:2]
    for file in (tmp_path / "checkpoints" / str(last)).glob("state/ocdbt.process_1/d/*"):
        file.unlink()
    end = f"train.num_steps={last + 1}"
    codes, said, errors = both(training(tmp_path, *often[1:], end))
    assert codes == [0, 0], errors
    assert f"checkpoint {last} is damaged" in said[0] and f"after step {other}\n" in said[0]
    assert f"trained to step {last + 1}" in said[0] and said[1] == ""


SLEEP = """
import sys, time
from experiments.devices import distributed

distributed.start(sys.argv[1:])
print("there", flush=True)
time.sleep(100)
"""


def test_what_saves_nothing_ends_at_a_signal():
    with Pair(*[[sys.executable, "-c", SLEEP]] * 2) as pair:
        assert any(line == "there\n" for line in pair.processes[0].stdout)
        pair.processes[0].send_signal(signal.SIGTERM)
        assert pair.processes[0].wait(timeout=30) == -signal.SIGTERM


def test_processes_that_differ_refuse_to_begin(tmp_path):
    codes, said, errors = both(
        training(tmp_path / "run"), second=[training(tmp_path / "run", "train.seed=1")]
    )
    assert codes == [2, 2]
    for said in errors:
        assert "error: the settings: not the same in process 1 of 2 as in the first;" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "given", [["here"], ["host:80", "2"], ["host:80", "2", "2"], ["h", "2", "0"]]
)
def test_where_the_others_are_is_said_in_full(given):
    with pytest.raises(UserError, match="expected HOST:PORT of the first process, how many"):
        start(given)


def test_a_process_that_no_cluster_knows_says_so():
    line = [sys.executable, "-m", "experiments.sample", "--workdir", "x", "--distributed"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=on_devices(1))
    assert done.returncode == 2
    assert done.stderr.startswith("error: --distributed: the processes do not find each other")
    assert done.stderr.count("\n") == 1


ALONE = """
import sys
from experiments.devices import distributed

distributed._WAIT = 2
distributed.start(sys.argv[1:])
"""


@pytest.mark.parametrize("number", ["0", "1"])
def test_a_process_whose_others_do_not_come_gives_up(number):
    line = [sys.executable, "-c", ALONE, f"localhost:{free_port()}", "2", number]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=on_devices(1))
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: --distributed localhost:") and "after 2 seconds" in last


def test_a_port_that_is_taken_is_said(capsys):
    with socket.create_server(("", 0)) as taken, pytest.raises(UserError, match="cannot be used"):
        start([f"localhost:{taken.getsockname()[1]}", "2", "0"])


SRUN = """#!/bin/sh
# As Slurm's own: starts the command as often as there are tasks, and tells each which it is.
shift
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & pids="$pids $!"
done
for pid in $pids; do wait "$pid" || code=$?; done
exit ${code:-0}
"""


def test_the_recipe_for_slurm_is_one_run(tmp_path):
    edited = (ROOT / "docs/launch/slurm.sh").read_text()
    values = " ".join(settings(*TRAIN, "train.num_steps=2"))
    for name, value in (
        ("CONFIG", CONFIG),
        ("WORKDIR", tmp_path / "run"),
        ("SETTINGS", f"({values})"),
    ):
        edited, count = re.subn(f"(?m)^{name}=.*", f"{name}={value}", edited)
        assert count == 1
    edited = edited.replace(".venv/bin/ddlm train", f"{sys.executable} -m experiments.train")
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    said = {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JAX_COORDINATOR_PORT": str(free_port())}
    done = subprocess.run(
        ["bash", "-c", edited], cwd=ROOT, capture_output=True, text=True, timeout=180,
        env=on_devices(2) | said | path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("4 x cpu") == done.stdout.count("trained to step 2") == 1
    assert len(metrics(tmp_path / "run")) == 2


def test_the_other_recipes_are_whole():
    for name in ("kubernetes.sh", "slurm.sh", "tpu_slice.sh"):
        subprocess.run(["bash", "-n", ROOT / "docs/launch" / name], check=True)
    made = subprocess.run(
        ["sh", "docs/launch/kubernetes.sh"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    command = " ".join(made.split("- exec ")[1].split("resources:")[0].split())
    assert command.endswith("--distributed ddlm-0.ddlm:8476 2 $JOB_COMPLETION_INDEX")
