"""What a run would be and how long it would take, found out by a few of its steps and not begun."""

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jax

from experiments.config import Experiment
from experiments.devices.distributed import first_says
from experiments.devices.memory import device_memory
from experiments.errors import shortened
from experiments.overrides import kinds, leaves
from experiments.progress import duration
from experiments.training.checkpoints import Checkpoints, CorruptCheckpoint
from experiments.training.signals import Signals
from experiments.training.trainer import Log, Ready, check_text, set_up
from experiments.training.workdir import check_writable
from models.backbone import num_parameters

_SECONDS, _FEWEST, _MOST = 3.0, 3, 50  # of timed steps


@dataclass(frozen=True)
class DryRun:
    """What a run would be.

    experiment: as it would be stored. parameters: how many. start: the step after which it would
    continue, 0 for a new run. memory: bytes of a device that a step takes, 0 where its compiler does not
    tell; available: those that the device has. first: seconds until the first step is done, compiling
    included; step: of each after it.
    """

    experiment: Experiment
    parameters: int
    start: int
    memory: int
    available: int
    first: float
    step: float

    @property
    def tokens_per_step(self) -> int:
        """Positions of a batch, padding among them."""
        return self.experiment.train.batch_size * self.experiment.data.length

    @property
    def steps(self) -> int:
        """How many are left."""
        return max(0, self.experiment.train.num_steps - self.start)

    @property
    def seconds(self) -> float:
        """Of all steps that are left, without evaluations and checkpoints."""
        return self.steps and self.first + (self.steps - 1) * self.step


def dry_run(experiment: Experiment, workdir: Path | None, log: Log) -> DryRun:
    """What training of the experiment would be, with the checks that it begins with. Nothing is written
    but the caches of prepared text and compiled programs. workdir: where it would be, None for nowhere.
    UserError for what the user can put right."""
    if workdir is not None:
        check_writable(workdir)
    ready, begin = set_up(experiment, workdir, log, Signals())
    start = 0 if workdir is None else _start(workdir, ready)
    began = time.perf_counter()
    memory = ready.check_memory()
    state = ready.initial(begin)
    parameters = num_parameters(state["params"])
    first, step = _timed(ready, state, began)
    return DryRun(ready.experiment, parameters, start, memory, device_memory(), first, step)


def _start(workdir: Path, ready: Ready) -> int:
    """The step after which the run in `workdir` would continue, 0 without one."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    start = checkpoints.latest() or 0
    with suppress(CorruptCheckpoint):  # which training sets aside
        if start:
            check_text(checkpoints, ready.corpus, checkpoints.meta(start))
    return start


def _timed(ready: Ready, state: dict, began: float) -> tuple[float, float]:
    """(seconds until the first step is done, of each of some after it, the batches among them)."""
    batches = ready.batches(0)

    def steps(state: Any, count: int) -> tuple[Any, float]:
        start, loss = time.perf_counter(), None
        for _ in range(count):
            state, loss = ready.step(state, *next(batches))
        jax.block_until_ready(loss)
        return state, time.perf_counter() - start

    state, _ = steps(state, 1)
    first = time.perf_counter() - began
    state, one = steps(state, 1)
    (count,) = first_says([int(min(max(_FEWEST, _SECONDS / one), _MOST))])  # each has its own clock
    return first, steps(state, count)[1] / count


def report(run: DryRun, workdir: Path | None) -> str:
    """What to print of it: the settings as --set takes them, sizes, times and the end."""
    train = run.experiment.train
    settings = leaves(run.experiment) | kinds(run.experiment)
    lines = [f"{path} = {shortened(str(settings[path]))}" for path in sorted(settings)]
    evaluations, saves = (
        train.num_steps // every - run.start // every if run.steps else 0
        for every in (train.eval_every, train.checkpoint_every)
    )
    where = "none given"
    if workdir is not None:
        where = f"{workdir}, " + (f"continued after step {run.start}" if run.start else "a new run")
    memory = f"{run.memory / 1e9:,.2f} GB of " if run.memory else "unknown, of "
    rows = [
        ("workdir", where),
        ("parameters", f"{run.parameters:,}"),
        ("tokens", f"{run.tokens_per_step:,} a step, {run.tokens_per_step * train.num_steps:,} in all"),
        ("memory", f"{memory}{run.available / 1e9:,.2f} GB of a device"),
        ("first step", f"{run.first:.1f} s, compiling included"),
        ("step", f"{run.step:.3g} s, {1 / run.step:,.2f} steps/s, "
                 f"{run.tokens_per_step / run.step:,.0f} tokens/s"),
        ("steps left", f"{run.steps:,}" if run.steps else "none: nothing would be trained"),
    ]  # fmt: skip
    if run.steps:
        end = datetime.now() + timedelta(seconds=run.seconds)
        besides = f"evaluations ({evaluations:,}) and checkpoints ({saves:,}) come on top"
        rows += [
            ("time", f"{duration(run.seconds)}; {besides}"),
            ("end", f"{end.isoformat(' ', 'minutes')}, if it begins now"),
        ]
    lines += ["", *(f"{name:<11} {value}" for name, value in rows)]
    return "\n".join([*lines, "", "a dry run: nothing is written"])
