"""Plot the training curves of one or more runs.

Draws the loss, the validation bound with two standard errors, the gradient norm and tokens per second,
and, for the last evaluation, the nats per token at each time and position. Training writes the same plot
to curves.svg in the run directory when it ends.

Examples:
    ddlm plot runs/a
    ddlm plot runs/a runs/b --out both.svg --theme dark
"""

from experiments import cli


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("plot", __doc__)
    options.add_argument("runs", nargs="+", metavar="RUN", help="a run directory")
    options.add_argument(
        "--out",
        type=cli.output,
        help="an image file, .svg or .png (default: curves.svg, in the run directory of one run, else "
        "here)",
    )
    options.add_argument(
        "--theme", choices=("light", "dark"), default="light", help="colours (default light)"
    )
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the picture is written."""
    args = command_line().parse_args(arguments)

    from pathlib import Path

    from experiments.curves import draw_curves, read_curves, save
    from experiments.figure import check_figure

    runs = [Path(run) for run in dict.fromkeys(args.runs)]
    out = Path(args.out) if args.out else (runs[0] if len(runs) == 1 else Path()) / "curves.svg"
    check_figure(out, "--out")
    curves = {str(run): read_curves(run) for run in runs}
    save(draw_curves(curves, args.theme), out)
    print(f"plot: {out}")


if __name__ == "__main__":
    cli.run("plot")
