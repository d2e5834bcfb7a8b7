"""What is logged and recorded of training, at the end of each logging interval."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from experiments.config import Experiment
from experiments.errors import Diverged
from experiments.progress import duration


class Meter:
    """Turns the totals of an interval into metrics and a line of progress.

    Speed is that of the steps that finished between two reads, which may be one more or less than were
    read: the host is a step ahead, and before an evaluation two steps are read at once. The first
    interval, in which the step compiles, has none.
    """

    def __init__(self, experiment: Experiment, start: int, log: Callable[[str], None]):
        self.config, self.log = experiment.train, log
        self.tokens_per_step = experiment.train.batch_size * experiment.data.length
        self.rate = experiment.optimizer.schedule.build()
        self.started = self.finished = start
        self.since, self.skipped = None, 0

    def paused(self) -> AbstractContextManager:
        """A context whose time does not count."""
        return _Paused(self)

    def check(self, step: int, totals: dict) -> None:
        """Nothing; Diverged where the sums are not finite, which they are without train.skip_bad."""
        if not math.isfinite(totals["loss"] + totals["grad_norm"]):
            what = "loss" if not math.isfinite(totals["loss"]) else "gradient norm"
            first = step - int(totals["steps"]) + 1
            raise Diverged(
                f"the {what} is not finite somewhere in steps {first} to {step}; nothing of it is "
                "saved; lower optimizer.schedule.peak_lr or raise optimizer.schedule.warmup_steps and "
                "run again"
            )

    def read(
        self, step: int, totals: dict, health: dict, started: int, finished: int
    ) -> tuple[int, dict[str, float]]:
        """(step, metrics) from the totals and the health at the end of the interval; started, finished:
        the last steps that the devices were given, and are done with."""
        self.check(step, totals)
        count = float(totals["steps"])
        skipped = int(health["skipped"])
        values = {
            "train/learning_rate": float(np.asarray(self.rate(step - skipped - 1))),
            "train/tokens": step * self.tokens_per_step,
            "train/skipped_steps": skipped,
            "train/rollbacks": int(health["retry"]),
        }
        now = time.perf_counter()  # after the first call of the rate, which compiles
        steps, fresh = finished - self.finished, started > self.started
        line = f"step {step}/{self.config.num_steps}"
        if count:
            loss = float(totals["loss"]) / count
            values["train/loss_nats_per_token"] = loss
            values["train/grad_norm"] = norm = float(totals["grad_norm"]) / count
            shown = f"{loss:.4f}" if abs(loss) >= 0.01 else f"{loss:.3g}"
            line += f"  loss {shown}  gradient norm {norm:.3g}"
        if skipped > self.skipped:
            line += f"  {skipped - self.skipped} bad steps skipped"
        if self.since is not None and fresh and steps > 0:
            speed = steps / (now - self.since)
            values["perf/tokens_per_s"] = speed * self.tokens_per_step
            left = (self.config.num_steps - finished) / speed
            line += f"  {values['perf/tokens_per_s']:,.0f} tokens/s  {duration(left)} left"
        if self.since is None or fresh:
            self.started, self.finished, self.since = started, finished, now
        self.skipped = skipped
        self.log(line)
        return step, values


class _Paused(AbstractContextManager):
    """Takes the time inside out of the meter's clock."""

    def __init__(self, meter):
        self.meter = meter

    def __enter__(self):
        self.start = time.perf_counter()

    def __exit__(self, *error):
        if self.meter.since is not None:
            self.meter.since += time.perf_counter() - self.start
