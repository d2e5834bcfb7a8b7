"""A ladder from its plan to its table and plot: train, evaluate, fit, predict, check."""

from collections.abc import Callable

from experiments.comparison.methods import run_all
from experiments.errors import UserError
from experiments.ladders import report
from experiments.ladders.fit import Fit
from experiments.ladders.ladder import Ladder


def climb(
    ladder: Ladder, further: Ladder | None, check: bool, title: str, log: Callable[[str], None]
) -> tuple[str, bytes]:
    """(Markdown without a final newline, the image as PNG), once all runs are trained and evaluated, as
    far as they are not. further: a ladder of the one run that is predicted, and with `check` trained
    too. UserError where it is a run of the first."""
    if further and further.rungs[0].method.name in [rung.method.name for rung in ladder.rungs]:
        raise UserError(
            f"--next {further.rungs[0].size} {further.rungs[0].budget:g} is a run of the ladder, which "
            "the fit sees; choose another size or budget"
        )
    measured = report.points(ladder.rungs, run_all(ladder.plan, log))
    found, checked = report.fitted(measured), None
    lines = [report.table(measured, found, ladder.plan.corpus)]
    if further:
        (rung,) = further.rungs
        if isinstance(found, Fit):
            unit = next(p.unit for p in measured if p.unit)
            lines.append(report.prediction(found, rung, unit))
            log(f"\n{lines[-1]}")
            checked = report.Point(rung, float("inf"), None, unit)
            if check:
                (checked,) = report.points([rung], run_all(further.plan, log))
                lines.append(report.checked(found, checked))
        else:
            lines.append("Nothing is predicted, and no run checks it: there is no fit.")
    return "\n\n".join(lines), report.draw(measured, found, checked, title, ".png")
