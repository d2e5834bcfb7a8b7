"""Guidance measured exactly: DNA with planted motifs, python -m experiments.studies.motifs [--out DIR]

The data are random sequences of the four bases. Each contains one of --labels fixed random motifs at a
random position, and the label says which one. No classifier is needed to check a sample with label y: it
must contain motif y. The program trains Dirichlet flow matching and a Bayesian flow network with labels,
and measures the fraction of correct samples against guidance strength, for classifier-free guidance and
for the gradient of a classifier of noisy states, which it trains too. It also reports the fraction with
a wrong motif and the entropy of the bases (2 bits in the data), since guidance exaggerates. Writes
DIR/motifs.json and DIR/motifs.png.
"""

from experiments import cli
from experiments.errors import UserError


def main(arguments: list[str]) -> dict:
    """The record: how often samples have their motif, by method and strength."""
    options = cli.parser("studies.motifs", __doc__)
    options.add_argument("--out", default="runs/motifs", help="the directory for the results")
    options.add_argument(
        "--steps", type=cli.positive, default=1500, help="training steps for each network"
    )
    options.add_argument("--batch-size", type=cli.positive, default=128, help="training batch size")
    options.add_argument("--samples", type=cli.positive, default=1000, help="samples per strength")
    options.add_argument("--sample-steps", type=cli.positive, default=40)
    options.add_argument("--strengths", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0, 4.0])
    options.add_argument("--length", type=cli.positive, default=16, help="length of a sequence")
    options.add_argument("--motif", type=cli.positive, default=6, help="bases in a motif")
    options.add_argument("--labels", type=cli.positive, default=4, help="number of motifs")
    options.add_argument("--seed", type=cli.natural, default=0)
    args = options.parse_args(arguments)
    if args.motif > args.length:
        raise UserError(f"--motif {args.motif} is longer than --length {args.length}")

    from pathlib import Path

    from experiments.figure import check_figure, draw_lines
    from experiments.files import write_atomically
    from experiments.plain_json import dumped
    from experiments.studies.measuring.motif_task import BASES, Settings, Task, run, table

    if args.labels < BASES:
        raise UserError(f"--labels {args.labels} must be at least {BASES}")
    out = Path(args.out)
    plot = out / "motifs.png"
    check_figure(plot)
    task = Task(args.length, args.motif, args.labels)
    settings = Settings(
        args.steps,
        args.batch_size,
        args.samples,
        args.sample_steps,
        tuple(args.strengths),
        args.seed,
    )
    record = run(task, settings, cli.log)
    write_atomically(out / "motifs.json", dumped(record, indent=1) + "\n")
    series = {
        name: ([r["strength"] for r in rows], [r["right"] for r in rows])
        for name, rows in record["results"].items()
    }
    x, y = "strength of guidance", "fraction of samples with their motif"
    write_atomically(plot, draw_lines(series, plot.suffix, xlabel=x, ylabel=y))
    print(f"\n{table(record)}\n\nrecord and plot: {out}")
    return record


if __name__ == "__main__":
    cli.run("studies.motifs")
