"""Train a ladder of sizes at equal FLOPs, fit a scaling law, and predict the next size.

Each size (LAYERSxWIDTH, with the config's width of a head) is trained once for each budget of FLOPs
and evaluated on a whole split. The learning rate is stretched to the steps of each run. To the values
it fits L(N, D) = E + A / N^a + B / D^b, for N parameters and D tokens, with 95 % intervals; where the
runs do not determine the fit it says so. With --next it predicts a further run, and with --check trains
that too and prints predicted beside measured.

Runs are in WORKDIR: an interrupted ladder continues with the same command, finished runs are not
repeated, and sizes and budgets can be added. Writes table.md and plot.png there. Sizes and steps of the
config (and of --set) count as proportions only: of heads to the width, of the warm-up to the steps.

Examples:
    ddlm scaling --config configs/sotu/mdlm.py --workdir runs/l --sizes 2x64 4x128 --budgets 1e13 4e13
    ddlm scaling --config configs/smoke.py --workdir runs/s --sizes 1x16 --budgets 1e9 --next 2x32 1e9
"""

import argparse

from experiments import cli


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("scaling", __doc__)
    options.add_argument("--config", required=True, help="a Python file that defines get_config()")
    options.add_argument("--workdir", required=True, help="the folder for a run directory per run")
    options.add_argument(
        "--sizes", required=True, nargs="+", metavar="LAYERSxWIDTH", help="sizes, such as 4x128"
    )
    options.add_argument(
        "--budgets",
        required=True,
        nargs="+",
        type=cli.above_zero,
        metavar="FLOPS",
        help="FLOPs of the training of a run, such as 1e13",
    )
    options.add_argument(
        "--next",
        nargs=2,
        metavar=("LAYERSxWIDTH", "FLOPS"),
        help="a further run, whose value is predicted",
    )
    options.add_argument("--check", action="store_true", help="train the run of --next and compare")
    options.add_argument(
        "--split", default="validation", help="train, validation (default) or test"
    )
    options.add_argument(
        "--dry-run", action="store_true", help="print what would be trained, and train nothing"
    )
    cli.add_set(options)
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the ladder is trained, and its table, fit and prediction are printed (or its plan)."""
    options = command_line()
    args = options.parse_args(arguments)
    if args.check and not args.next:
        options.error("--check needs a run to check; give --next LAYERSxWIDTH FLOPS")
    try:
        further = args.next and (args.next[0], cli.above_zero(args.next[1]))
    except argparse.ArgumentTypeError as error:
        options.error(f"argument --next: {error}")

    from pathlib import Path

    from experiments.figure import check_figure
    from experiments.files import write_atomically
    from experiments.ladders.climb import climb
    from experiments.ladders.ladder import make_ladder
    from experiments.ladders.report import plan_table
    from experiments.training.workdir import one_writer

    workdir = Path(args.workdir)
    check_figure(workdir / "plot.png")
    settings = workdir, args.config, args.set
    ladder = make_ladder(*settings, args.sizes, args.budgets, args.split)
    last = further and make_ladder(*settings, [further[0]], [further[1]], args.split)
    if args.dry_run:
        rungs = [*ladder.rungs, *(last.rungs if last else ())]
        print(plan_table(rungs, ladder.plan.corpus))
        return
    with one_writer(workdir, cli.log):
        text, image = climb(ladder, last, args.check, Path(args.config).stem, cli.log)
        write_atomically(workdir / "table.md", f"{text}\n")
        write_atomically(workdir / "plot.png", image)
    print(f"\n{text}\n\ntable: {workdir / 'table.md'}\nplot: {workdir / 'plot.png'}")


if __name__ == "__main__":
    cli.run("scaling")
