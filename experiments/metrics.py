"""Metrics of a run: `metrics.jsonl` and TensorBoard events, continued exactly after a resume."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter

from experiments.files import write_atomically


class Metrics:
    """Appends to the metrics in `workdir`; lines after step `start` are of a lost attempt and go."""

    def __init__(self, workdir: Path, start: int):
        path = workdir / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step(line) <= start]
            write_atomically(path, "".join(line + "\n" for line in kept))
        self._file = open(path, "a", buffering=1)  # noqa: SIM115, closed in __exit__
        self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()
        self._writer.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line {"step": ..., name: value}, and a TensorBoard scalar for each name."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)


def read_metric(workdir: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of every line of the metrics in `workdir` that has `name`; empty without metrics."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines if _step(line) < float("inf")]
    return [(line["step"], line[name]) for line in found if name in line]


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")  # a line cut short by a kill
