"""How much of a run's samples is copied: python -m experiments.studies.memorisation --run RUN ...

Draws --num samples of each run (repeat --run) and says which share of their characters is in a match of
at least k characters with the run's training text, for each k of --lengths, beside the same of held-out
text in pieces as long as the samples. Short matches are the language: held-out text has them too. What
samples have beyond that is copied. The search is exact.

Writes table.md and plot.png into --out, replacing older ones.

Example:
    python -m experiments.studies.memorisation --run runs/a --run runs/b --num 64
"""

from experiments import cli
from experiments.errors import UserError


def main(arguments: list[str]) -> None:
    """Nothing; prints the shares of each run's samples, and of held-out text."""
    options = cli.parser("studies.memorisation", __doc__)
    options.add_argument("--run", required=True, action="append", help="a run; may be repeated")
    options.add_argument("--num", type=cli.positive, default=64, help="samples (default 64)")
    options.add_argument("--steps", type=cli.positive, help="of the sampler (default: the run's)")
    options.add_argument("--seed", type=cli.natural, default=0)
    options.add_argument(
        "--lengths",
        type=cli.positive,
        nargs="+",
        default=[8, 12, 16, 24, 32, 48, 64, 96, 128],
        metavar="K",
        help="characters of a match (default 8 12 16 24 32 48 64 96 128)",
    )
    options.add_argument(
        "--out", default="runs/memorisation", help="the folder to write (default runs/memorisation)"
    )
    args = options.parse_args(arguments)

    from pathlib import Path

    from experiments.figure import check_figure, draw_lines
    from experiments.files import write_atomically
    from experiments.studies.measuring.memorisation import measure, table

    names = [Path(run).resolve().name for run in args.run]
    if len(set(names)) < len(names):
        raise UserError("two runs have the same name; rename a directory")
    out = Path(args.out)
    check_figure(out / "plot.png")
    lengths = sorted(set(args.lengths))
    curves = {}
    for name, run in zip(names, args.run, strict=True):
        curves |= measure(name, run, lengths, args.num, args.steps, args.seed, cli.log)
    text = table(lengths, curves)
    write_atomically(out / "table.md", text + "\n")
    series = {
        name: (lengths, [100 * share.mean for share in shares]) for name, shares in curves.items()
    }
    image = draw_lines(
        series, ".png", xlabel="characters of a match, at least",
        ylabel="% of the characters in such matches",
    )  # fmt: skip
    write_atomically(out / "plot.png", image)
    print(f"\n{text}\n\ntable: {out / 'table.md'}\nplot: {out / 'plot.png'}")


if __name__ == "__main__":
    cli.run("studies.memorisation")
