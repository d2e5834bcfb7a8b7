"""Sample quality against time: python -m experiments.studies.few_steps --workdir RUN ... --scorer AR_RUN

For each run (repeat --workdir) and each number of --steps (per block for block processes; ignored for
autoregressive runs, whose steps are their tokens), it draws --num samples in one compiled program and
reports

    bits per character of the samples under the scorer, an autoregressive run on the same alphabet
    character entropy of the samples, in bits, since repetitive text scores well under a model
    the share of their words that occur in the training text
    network calls per sample (not counting those of a residual energy), and the total time of the
    compiled program divided by the number of samples

next to the first three for the scorer's own validation text. --sampler "NAME setting=value ..." (may be
repeated) replaces the runs' own samplers; each is used with the runs it supports, and at each of --steps
unless it sets its own. `--set process.candidates=8` applies to the runs that have the setting. Writes
few-steps.json and few-steps.png into --out, replacing older ones.
"""

from experiments import cli
from experiments.errors import UserError


def main(arguments: list[str]) -> dict:
    """The record: the quality of samples of each run and sampler, and their time."""
    options = cli.parser("studies.few_steps", __doc__)
    options.add_argument("--workdir", required=True, action="append", help="a run; may be repeated")
    options.add_argument("--scorer", required=True, help="the run of an autoregressive model")
    options.add_argument("--sampler", action="append", help="a sampler; may be repeated")
    options.add_argument("--steps", type=cli.positive, nargs="+", default=[4, 8, 16, 64])
    options.add_argument("--num", type=cli.positive, default=64, help="samples (default 64)")
    options.add_argument("--seed", type=cli.natural, default=0)
    options.add_argument(
        "--out", default="runs/few-steps", help="directory (default runs/few-steps)"
    )
    cli.add_set(options)
    args = options.parse_args(arguments)

    from pathlib import Path

    from experiments.figure import check_figure, draw_lines
    from experiments.files import write_atomically
    from experiments.plain_json import dumped
    from experiments.sample_metrics.sample_quality import measure, table

    names = [Path(workdir).name for workdir in args.workdir]
    if len(set(names)) < len(names):
        raise UserError("two runs have the same name; rename a directory")
    out = Path(args.out)
    plot = out / "few-steps.png"
    check_figure(plot)
    record = measure(
        args.workdir, args.scorer, cli.log, samplers=args.sampler or (), steps=args.steps,
        num=args.num, seed=args.seed, overrides=args.set,
    )  # fmt: skip
    write_atomically(out / "few-steps.json", dumped(record, indent=1) + "\n")
    series = {}
    for row in record["rows"]:
        name = f"{row['run']} {row['sampler']}" if args.sampler else row["run"]
        x, y = series.setdefault(name, ([], []))
        x.append(row["seconds_per_sample"])
        y.append(row["scorer_bits_per_char"])
    x, y = "seconds per sample", "bits per character under the scorer"
    write_atomically(plot, draw_lines(series, plot.suffix, log_x=True, xlabel=x, ylabel=y))
    print(f"\n{table(record)}\n\nrecord and plot: {out}")
    return record


if __name__ == "__main__":
    cli.run("studies.few_steps")
