"""Commands in two processes on loopback."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
from conftest import SMALL, on_devices

from experiments.cli import guarded
from experiments.run import load_run

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
                [*line, f"127.0.0.1:{port}", "2", str(number)],
                env=on_devices(devices),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number, line in enumerate(lines)
        ]

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
