"""No tracker."""

from dataclasses import dataclass

from experiments.trackers.tracker import Tracker


@dataclass(frozen=True)
class NoTracker(Tracker):
    """Files in the run directory alone: metrics.jsonl and TensorBoard."""

    def begin(self, workdir, settings, known):
        return None
