"""Weights & Biases (https://wandb.ai): the extra `wandb`.

Its own settings of the environment hold, such as WANDB_API_KEY, WANDB_ENTITY and WANDB_MODE=offline,
with which a run is written below the run directory, for `wandb sync`.
"""

from dataclasses import dataclass
from secrets import token_hex

from experiments.errors import needed
from experiments.trackers.tracker import TrackedRun, Tracker


@dataclass(frozen=True)
class WeightsAndBiases(Tracker):
    """project: where the run stands. name: of the run; "" is that of the run directory."""

    project: str = "ddlm"
    name: str = ""

    def check(self):
        needed("wandb", "train.tracker = WeightsAndBiases")

    def begin(self, workdir, settings, known):
        import wandb  # pyright: ignore[reportMissingImports]  # an extra

        run = wandb.init(
            project=self.project,
            name=self.name or workdir.resolve().name,
            id=known or token_hex(4),
            resume="allow",
            dir=str(workdir),
            config=settings,
            settings=wandb.Settings(console="off"),  # our output is none of its business
        )
        # Its own count of steps only rises, and a training may go back to a checkpoint.
        run.define_metric("*", step_metric="step")
        return _Run(run)


class _Run(TrackedRun):
    def __init__(self, run):
        self._run, self.id = run, run.id

    def log(self, step, values):
        self._run.log({"step": step, **values})

    def close(self, failed):
        self._run.finish(exit_code=int(failed))
