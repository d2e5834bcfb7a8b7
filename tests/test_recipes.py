"""The recipes of docs/launch start one run on several hosts; programs stand for a cluster's."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import yaml
from conftest import on_devices
from two_processes import CONFIG, ROOT, free_port, metrics, training

from experiments.cli import guarded

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


@pytest.mark.representatives()
def test_the_recipe_for_slurm_is_one_run(tmp_path):
    line = shlex.join(["train", *training(tmp_path / "run", "train.num_steps=2")[1]])
    ddlm = program(tmp_path / "ddlm", DDLM)
    program(tmp_path / "srun", SRUN)
    edited = recipe("slurm.sh", line).replace(".venv/bin/ddlm", str(ddlm))
    done = subprocess.run(
        ["bash", "-c", edited],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        env=cluster(tmp_path),
    )
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
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            env=variables,
        )
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
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=cluster(tmp_path),
    )
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
        "containerName": container["name"],
        "operator": "In",
        "values": [2],
    }
    assert pod["restartPolicy"] == "Never"  # which the rule asks for
    assert spec["completions"] == spec["parallelism"] == 32
    assert spec["backoffLimit"] >= 50 * 32  # all pods fail where one does
