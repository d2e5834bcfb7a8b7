"""A training run that is killed over and over, and what was lost by it."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.errors import UserError
from experiments.training.checkpoints import TEMPORARY, Checkpoints

_FOREVER = 10**9


def kill_often(
    config: str,
    workdir: Path,
    settings: Sequence[str],
    kills: int,
    seed: int,
    log: Callable[[str], None],
    processes: int = 1,
) -> dict[str, int]:
    """Counts by name, of a run in workdir/killed that was killed so many times. Of several processes one
    is killed, and within a fifth of a second the others."""
    if workdir.exists() and any(workdir.iterdir()):
        raise UserError(f"workdir {workdir} is not empty; give a new one")
    rng, killed = random.Random(seed), workdir / "killed"
    counts: dict[str, int] = dict.fromkeys(
        ("kills", "kills that left a half-written save", "resumes", "checkpoints found damaged",
         "committed checkpoints lost", "most steps to be made again", "last committed step"), 0
    )  # fmt: skip
    expected = made = 0
    while counts["kills"] < kills:
        running = _start(config, killed, settings, processes)
        process = running[0]  # whose log it is
        start, lines = _started(process)
        counts["resumes"] += start > 0
        counts["committed checkpoints lost"] += start < expected
        counts["checkpoints found damaged"] += sum("is damaged" in line for line in lines)
        again = max(0, made - start)
        counts["most steps to be made again"] = max(counts["most steps to be made again"], again)
        _moment(process, killed, rng, amid_save=counts["kills"] % 2 == 0)
        for victim in rng.sample(running, len(running)):
            victim.kill()
            time.sleep(rng.uniform(0, 0.2) if len(running) > 1 else 0)
        made = max([start, *_steps_said(process.communicate()[0])])
        for other in running[1:]:
            other.communicate()
        counts["kills"] += 1
        counts["kills that left a half-written save"] += bool(_half_written(killed))
        expected = counts["last committed step"] = Checkpoints(killed / "checkpoints").latest() or 0
        log(f"kill {counts['kills']}: started at {start}, reached {made}, committed {expected}")
    return counts


def compared(
    config: str, workdir: Path, settings: Sequence[str], end: int, processes: int = 1
) -> dict[str, bool | int]:
    """Whether the killed run, continued to step `end`, is what one is that was never killed."""
    for name in ("killed", "uninterrupted"):
        running = _start(config, workdir / name, settings, processes, end)
        ended = [process.communicate()[1] for process in running]
        if any(process.returncode for process in running):
            raise UserError(f"the training to step {end} failed: {' '.join(ended).strip()}")
    arrays, metrics = zip(
        *(_outcome(workdir / n, end) for n in ("killed", "uninterrupted")), strict=True
    )
    return {
        "steps of the whole run": end,
        "end bit-identical to the uninterrupted run": arrays[0] == arrays[1],
        "metrics equal, but for times": metrics[0] == metrics[1],
    }


def _outcome(workdir: Path, end: int) -> tuple[dict, list[dict]]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    metrics = [{k: v for k, v in x.items() if not k.startswith("perf/")} for x in lines]
    return Checkpoints(workdir / "checkpoints").digests(end), metrics


def _start(
    config: str, workdir: Path, settings: Sequence[str], processes: int, num_steps: int = _FOREVER
) -> list[subprocess.Popen]:
    line = [
        sys.executable,
        "-m",
        "experiments.train",
        "--config",
        config,
        "--workdir",
        str(workdir),
    ]
    for setting in [*settings, f"train.num_steps={num_steps}"]:
        line += ["--set", setting]
    # Most of the time of so short a process goes into compiling what the last one has compiled.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        subprocess.Popen(
            [*line, *(["--distributed", address, str(processes), str(n)] if processes > 1 else [])],
            env=cache | os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(processes)
    ]


def _started(process: subprocess.Popen) -> tuple[int, list[str]]:
    """(the step that the process goes on from, its lines before it made its first one)."""
    start, lines = 0, []
    assert process.stdout is not None  # `_start` makes a pipe
    for line in process.stdout:
        if line.startswith("step "):
            return start, lines
        lines.append(line)
        if line.startswith("continuing after step"):
            start = int(line.split()[-1])
    raise UserError(f"the training ended by itself: {process.communicate()[1].strip()}")


def _moment(process: subprocess.Popen, workdir: Path, rng: random.Random, amid_save: bool) -> None:
    """Waits for the moment of the kill: after none to three more checkpoints, at random, and where asked
    for until the next one is being written."""
    checkpoints, more = Checkpoints(workdir / "checkpoints"), rng.randint(0, 3)
    seen = checkpoints.latest()
    while more or (amid_save and not _half_written(workdir)):
        if process.poll() is not None:
            raise UserError(f"the training ended by itself: {process.communicate()[1].strip()}")
        if more and checkpoints.latest() != seen:
            seen, more = checkpoints.latest(), more - 1
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.03 if amid_save else 0.3))


def _half_written(workdir: Path) -> list[Path]:
    return list((workdir / "checkpoints").glob(f"*{TEMPORARY}"))


def _steps_said(output: str) -> list[int]:
    lines = [line for line in output.splitlines()[:-1] if line.startswith("step ") and "/" in line]
    return [int(line[5:].partition("/")[0]) for line in lines if "validation" not in line]
