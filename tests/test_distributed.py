"""Two processes on loopback: one run, the same as in one process, and what they do when one fails."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import on_devices
from two_processes import (
    ROOT,
    Pair,
    after,
    alone,
    both,
    free_port,
    metrics,
    params,
    together,
    training,
)

from experiments.devices.distributed import start
from experiments.errors import UserError
from experiments.locks import held
from experiments.training.checkpoints import Checkpoints


def test_a_run_that_another_process_writes_is_left_alone_by_all(tmp_path):
    with held(tmp_path / ".lock", "it"):
        codes, _, errors = both(training(tmp_path), devices=1)
    assert codes == [2, 2], errors
    assert f"error: workdir {tmp_path} is in use by another process, {os.getpid()} on " in errors[0]
    assert f"error: workdir {tmp_path}: the first process says why not\n" in errors[1]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one process makes of the run, and of its continuation in the folder `longer`."""
    folder = tmp_path_factory.mktemp("alone")
    one, longer = folder / "one", folder / "longer"
    alone(training(one, "mesh.fsdp=1"), *after(one))
    shutil.copytree(one, longer)
    alone(training(longer, "mesh.fsdp=1", "train.num_steps=6"))
    return one


# In the first mesh each process has half of the rows, in the second both have all of them.
@pytest.mark.representatives()
@pytest.mark.parametrize(
    "devices, mesh", [(2, ["mesh.tensor=2"]), (1, ["mesh.fsdp=1", "mesh.tensor=2"])]
)
def test_two_processes_do_what_one_does(one, tmp_path, devices, mesh):
    two = tmp_path / "two"
    codes, said, errors = both(training(two, *mesh), *after(two), devices=devices)
    assert codes == [0, 0], errors
    assert said[1] == "" and "trained to step 4" in said[0] and "record: " in said[0]
    assert f"{2 * devices} x cpu" in said[0]

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
    longer = metrics(one.parent / "longer")[-1]
    assert metrics(tmp_path / "copy")[-1] == pytest.approx(longer, rel=5e-5)


def begin(pair, lines):
    """Waits until the first process has made more steps."""
    for line in pair.processes[0].stdout:
        lines.append(line)
        if line.startswith("step ") and sum(x.startswith("step ") for x in lines) > 3:
            return
    raise AssertionError(pair.wait())


@pytest.mark.representatives()
def test_one_signal_stops_both_one_kill_ends_both_and_what_is_lost_of_one_is_set_aside(tmp_path):
    often = ("train.num_steps=1000000", "train.eval_every=1000000", "train.checkpoint_every=20")
    with together(tmp_path, *often) as pair:
        begin(pair, [])
        pair.processes[1].send_signal(signal.SIGINT)
        codes, said, errors = pair.wait()
    assert codes == [143, 130], errors
    line = errors[0].splitlines()[-1]
    its = line.replace("SIGTERM", "SIGINT")
    assert errors[1].splitlines()[-1] == f"process 1: {its}"
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


@pytest.mark.representatives()
def test_processes_that_differ_reject_to_begin(tmp_path):
    other = training(tmp_path / "run", "train.seed=1", "process.schedule=Cosine")
    codes, said, errors = both(training(tmp_path / "run"), second=[other])
    assert codes == [2, 2]
    for said in errors:
        assert (
            "error: process.schedule, train.seed: not the same in process 1 of 2 as in the first;"
            in said
        )
    assert not (tmp_path / "run").exists()


AGREE = """
import sys
from experiments.devices import distributed
from experiments.errors import UserError
from experiments.locks import held

distributed.start(sys.argv[1:])
distributed.agree({"a": "1", "b": "2"})
for first, second in [
    ({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "3"}),
    ({"a": "1"}, {"a": "1", "b": ""}),
    (dict.fromkeys("abcdef", "1"), {}),
]:
    try:
        distributed.agree(first if distributed.is_first() else second)
    except UserError as error:
        print(str(error).partition(" of 2")[0], file=sys.stderr)
distributed.leave()
"""


def test_what_differs_is_named_also_where_some_have_more():
    with Pair(*[[sys.executable, "-c", AGREE]] * 2, devices=1) as pair:
        codes, _, errors = pair.wait()
    assert codes == [0, 0], errors
    first, second = ([x for x in said.splitlines() if "not the same" in x] for said in errors)
    nothing, named = "what this process does not have", ": not the same in process 1"
    assert first == [f"b, c{named}", f"{nothing}{named}", f"a, b, c, d and 2 more{named}"]
    assert second == [f"b{named}", f"b{named}", f"{nothing}{named}"]


@pytest.mark.parametrize(
    "given, said",
    [
        *(
            (given, "expected HOST:PORT of the first process, how many")
            for given in (["here"], ["host:80", "2"], ["h", "2", "0"], ["h:8", "0", "0"])
        ),
        (["host:80", "2", "2"], "have the numbers 0 to 1, but this one has number 2"),
    ],
)
def test_where_the_others_are_is_said_in_full(given, said):
    with pytest.raises(UserError, match=said):
        start(given)


def test_a_process_that_no_cluster_knows_says_so():
    line = [sys.executable, "-m", "experiments.sample", "--workdir", "x", "--distributed"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=on_devices(1))
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: --distributed: the processes cannot connect to each other"
    )
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
    said = "cannot be used .*; unless another process has number 0 too, choose another one"
    with socket.create_server(("", 0)) as taken, pytest.raises(UserError, match=said):
        start([f"localhost:{taken.getsockname()[1]}", "2", "0"])
