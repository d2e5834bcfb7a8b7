"""What is said and recorded of training, at the end of each logging interval."""

import math
import time

from experiments.errors import Diverged


class Meter:
    """Turns the totals of an interval into metrics and a line of progress."""

    def __init__(self, experiment, start, log):
        self.config, self.log = experiment.train, log
        self.tokens_per_step = experiment.train.batch_size * experiment.data.length
        self.rate = experiment.optimizer.schedule.build()
        self.read_at, self.since, self.skipped = start, None, 0

    def paused(self):
        return _Paused(self)

    def check(self, step, totals):
        """Nothing; Diverged where the sums are not finite, which they are without train.skip_bad."""
        if not math.isfinite(totals["loss"] + totals["grad_norm"]):
            what = "loss" if not math.isfinite(totals["loss"]) else "gradient norm"
            first = step - int(totals["steps"]) + 1
            raise Diverged(
                f"the {what} is not finite somewhere in steps {first} to {step}; nothing of it is "
                "saved; lower optimizer.schedule.peak_lr or raise optimizer.schedule.warmup_steps and "
                "run again"
            )

    def read(self, step, totals, health):
        """(step, metrics) from the totals and the health at the end of the interval."""
        self.check(step, totals)
        now, count = time.perf_counter(), float(totals["steps"])
        steps = step - self.read_at
        skipped = int(health["skipped"])
        values = {
            "train/learning_rate": float(self.rate(step - skipped - 1)),
            "train/tokens": step * self.tokens_per_step,
            "train/skipped_steps": skipped,
            "train/rollbacks": int(health["retry"]),
        }
        line = f"step {step}/{self.config.num_steps}"
        if count:
            loss = float(totals["loss"]) / count
            values["train/loss_nats_per_token"] = loss
            values["train/grad_norm"] = float(totals["grad_norm"]) / count
            line += f"  loss {loss:.4f}"
        if skipped > self.skipped:
            line += f"  {skipped - self.skipped} bad steps skipped"
        if self.since is not None and steps > 0:
            speed = steps / (now - self.since)
            values["perf/tokens_per_s"] = speed * self.tokens_per_step
            left = (self.config.num_steps - step) / speed
            line += f"  {values['perf/tokens_per_s']:,.0f} tokens/s  {_duration(left)} left"
        self.read_at, self.since, self.skipped = step, now, skipped
        self.log(line)
        return step, values


class _Paused:
    """Takes the time inside out of the meter's clock."""

    def __init__(self, meter):
        self.meter = meter

    def __enter__(self):
        self.start = time.perf_counter()

    def __exit__(self, *error):
        if self.meter.since is not None:
            self.meter.since += time.perf_counter() - self.start


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
