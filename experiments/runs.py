"""List the runs in a folder with their progress and results.

Shows for each run the current and planned steps, the latest training loss (nats per token), the latest
and the best bound on a sample of the validation split with its standard error, the latest record of
`ddlm evaluate`, and the time of the last change. The most recent run comes last. Only reads files.

Examples:
    ddlm runs
    ddlm runs runs/compare
"""

from datetime import datetime
from pathlib import Path

from experiments import cli
from experiments.errors import printable


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("runs", __doc__)
    options.add_argument(
        "folder",
        nargs="?",
        default="runs",
        metavar="FOLDER",
        help="the folder to search, at any depth (default: runs)",
    )
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the runs are printed, and below them what of their files cannot be read."""
    from experiments.overview.runs import runs

    folder = Path(command_line().parse_args(arguments).folder).expanduser()
    found = runs(folder)
    if not found:
        print(f"no runs in {folder}; make one: ddlm train --config CONFIG --workdir {folder / 'a'}")
        return
    head = ("run", "state", "step", "loss", "newest bound", "best bound", "newest record", "moved")
    rows = [_row(run) for run in found]
    columns = [c for c in zip(head, *rows, strict=True) if any(c[1:])]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        print("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())
    for run in found:
        for fault in run.faults:
            print(f"damaged: {printable(fault)}")


def _row(run) -> tuple[str, ...]:
    best = run.best if run.best != run.newest else None
    moved = datetime.fromtimestamp(run.moved).isoformat(" ", "minutes")
    cells = (
        str(run.workdir),
        run.state,
        str(run.step) if run.planned is None else f"{run.step}/{run.planned}",
        "" if run.loss is None else f"{run.loss:.3f}",
        *("" if measured is None else str(measured) for measured in (run.newest, best, run.record)),
        moved,
    )
    return tuple(map(printable, cells))


if __name__ == "__main__":
    cli.run("runs")
