"""A tracker of one's own: a line a call, in a file of the run directory.

ddlm train --config tests/extension/tracker.py --workdir runs/own-tracker
"""

import json
from dataclasses import dataclass, replace

from configs import smoke
from experiments.trackers.tracker import TrackedRun, Tracker


@dataclass(frozen=True)
class LineByLine(Tracker):
    """file: its name."""

    file: str = "tracked.jsonl"

    def begin(self, workdir, settings, known):
        return _Lines(workdir / self.file, known or settings["process.vocab_size"], known is None)


class _Lines(TrackedRun):
    def __init__(self, path, name, new):
        self._path, self.id = path, f"run {name}" if new else name
        self.log("begun", self.id)

    def log(self, step, values):
        with open(self._path, "a") as file:
            file.write(json.dumps([step, values]) + "\n")

    def close(self, failed):
        self.log("failed" if failed else "done", self.id)


def get_config():
    base = smoke.get_config()
    return replace(base, train=replace(base.train, tracker=LineByLine()))
