"""Two processes on loopback: one run, the same as in one process, and what they do when one fails."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from conftest import SMALL, on_devices

from experiments.cli import guarded
from experiments.devices.distributed import start
from experiments.errors import UserError
from experiments.locks import held
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
    drawn = [*line, "--steps", "3", "--prompt", "the", "--out", samples]
    return (
        ("evaluate", [*line, *few, "--out", record]),
        ("sample", [*drawn, "--num", "1"]),
        ("sample", [*drawn, "--num", "5"]),  # continues
    )


def test_a_run_that_another_process_writes_is_left_alone_by_all(tmp_path):
    with held(tmp_path / ".lock", "it"):
        codes, _, errors = both(training(tmp_path), devices=1)
    assert codes == [2, 2], errors
    assert f"error: workdir {tmp_path} is in use by another process, {os.getpid()} on " in errors[0]
    assert f"error: workdir {tmp_path}: the first process says why not\n" in errors[1]
    assert list(tmp_path.iterdir()) == []


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
        (["host:80", "2", "2"], "have the numbers 0 to 1, and this one is to be 2"),
    ],
)
def test_where_the_others_are_is_said_in_full(given, said):
    with pytest.raises(UserError, match=said):
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
    said = "cannot be used .*; unless another process has number 0 too, choose another one"
    with socket.create_server(("", 0)) as taken, pytest.raises(UserError, match=said):
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


GCLOUD = """#!/bin/sh
# As gcloud's ssh to a slice of two hosts, whose homes are the folders 0 and 1 of HOSTS.
hosts="0 1"
for argument; do
    case $argument in
    --command=*) command=${argument#--command=} ;;
    --worker=0) hosts=0 ;;
    esac
done
for host in $hosts; do
    (cd "$HOSTS/$host" && SLURM_PROCID=$host SLURM_LOCALID=$host sh -c "$command") || code=$?
done
exit ${code:-0}
"""
DDLM = f"#!{sys.executable}\nfrom experiments.cli import main\n\nmain()\n"


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def recipe(name, command=None):
    """The text of a recipe, with the command in place of its own."""
    text = (ROOT / "docs/launch" / name).read_text()
    if command is None:
        return text
    line = f"({command})" if name == "slurm.sh" else f'"{command}"'
    own = r"(?ms)^RUN=.*?(?=^# RUN=)"
    assert len(re.findall(own, text)) == 1
    return re.sub(own, lambda _: f"RUN={line}\n", text)


def cluster(tmp_path, **variables):
    """The environment of a recipe that finds its programs in tmp_path, two processes on this machine."""
    found = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    return on_devices(2) | found | {name: str(value) for name, value in variables.items()}


def test_the_recipe_for_slurm_is_one_run(tmp_path):
    line = shlex.join(["train", *training(tmp_path / "run", "train.num_steps=2")[1]])
    ddlm = program(tmp_path / "ddlm", DDLM)
    program(tmp_path / "srun", SRUN)
    edited = recipe("slurm.sh", line).replace(".venv/bin/ddlm", str(ddlm))
    done = subprocess.run(
        ["bash", "-c", edited], cwd=ROOT, capture_output=True, text=True, timeout=180,
        env=cluster(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("4 x cpu") == done.stdout.count("trained to step 2") == 1
    assert len(metrics(tmp_path / "run")) == 2


def test_the_recipe_for_a_slice_starts_what_goes_on_alone_and_can_be_stopped(tmp_path):
    line = training(tmp_path / "run", "train.num_steps=1000000", "train.eval_every=1000000")[1]
    line = shlex.join(["train", *line]).replace(CONFIG, str(ROOT / CONFIG))
    program(tmp_path / "gcloud", GCLOUD)
    hosts = [tmp_path / str(number) / "ddlm" for number in (0, 1)]
    for host in hosts:
        program(host / ".venv/bin/ddlm", DDLM)

    def do(verb):
        done = subprocess.run(
            ["sh", "-c", recipe("tpu_slice.sh", line), "tpu_slice.sh", verb],
            cwd=ROOT, capture_output=True, text=True, timeout=60, env=variables,
        )  # fmt: skip
        return done.returncode, done.stdout

    variables = cluster(tmp_path, HOSTS=tmp_path)
    assert do("run") == (0, "")
    pids = [int((host / "run.pid").read_text()) for host in hosts]
    try:
        wait_for(lambda: [os.getsid(pid) for pid in pids] == pids)  # setsid is just being started
        assert do("run") == (2, "it runs already; stop it before\n" * 2)
        wait_for(lambda: "step 3/" in (hosts[0] / "run.log").read_text())
        code, said = do("status")
        assert code == 0 and said.count("runs\n") == 2 and "step " in said
        assert do("stop") == (0, "")
        ends = [f"{who}stopped by SIGTERM after step " for who in ("", "process 1: ")]
        for host, end in zip(hosts, ends, strict=True):
            wait_for(lambda: f"\n{end}" in "\n" + (host / "run.log").read_text())  # noqa: B023
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


def wait_for(what):
    limit = time.monotonic() + 60
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.1)


def rendered(name, command, tmp_path):
    """The words that a recipe starts on a machine of the cluster."""
    show = '#!/bin/sh\nfor word; do echo "$word"; done\n'
    shown = {"slurm.sh": "srun", "tpu_slice.sh": "gcloud"}.get(name)
    if shown:
        program(tmp_path / shown, show)
    done = subprocess.run(
        ["bash", "-c", recipe(name, command), name, "run"],
        cwd=ROOT, capture_output=True, text=True, env=cluster(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if name == "slurm.sh":
        return done.stdout.splitlines()[1:]
    if name == "kubernetes.sh":
        (line,) = job(done.stdout)["template"]["spec"]["containers"][0]["args"]
        return shlex.split(line)[1:]
    text = done.stdout.replace("\\\n", " ")
    return shlex.split(text.partition("setsid ")[2].partition(" >>run.log")[0])


def job(manifest):
    """The specification of the Job that the recipe for Kubernetes writes."""
    service, job = yaml.safe_load_all(manifest)
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    return job["spec"]


@pytest.mark.parametrize("name", ["kubernetes.sh", "slurm.sh", "tpu_slice.sh"])
def test_a_recipe_starts_the_command_in_its_first_paragraph(name, tmp_path, monkeypatch, capsys):
    end = {"kubernetes.sh": ["ddlm-0.ddlm:8476", "2", "$JOB_COMPLETION_INDEX"]}.get(name, [])
    others = re.findall(r"(?m)^# RUN=[(\"](.*)[)\"]$", recipe(name))
    own = rendered(name, None, tmp_path)
    asked = [own[1 : own.index("--distributed")], *map(shlex.split, others)]
    assert [command for command, *_ in asked] == ["train", "evaluate", "sample"]
    for words in [*asked, ["sample", "--prompt", "it: # is"]]:  # which YAML could take for its own
        got = rendered(name, shlex.join(words), tmp_path)
        assert got == [".venv/bin/ddlm", *words, "--distributed", *end]
    monkeypatch.chdir(tmp_path)
    for command, *words in asked:
        assert guarded(command, words) == 2  # there is no such run; that there are the options:
        assert "--help" not in capsys.readouterr().err


def test_the_recipe_for_kubernetes_tries_again_what_is_no_mistake_of_the_user(tmp_path):
    text = recipe("kubernetes.sh").replace("PROCESSES=2", "PROCESSES=32")
    spec = job(
        subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True).stdout
    )
    pod = spec["template"]["spec"]
    (rule,), (container,) = spec["podFailurePolicy"]["rules"], pod["containers"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": container["name"], "operator": "In", "values": [2],
    }  # fmt: skip
    assert pod["restartPolicy"] == "Never"  # which the rule asks for
    assert spec["completions"] == spec["parallelism"] == 32
    assert spec["backoffLimit"] >= 50 * 32  # all pods fail where one does
