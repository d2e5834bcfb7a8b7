"""Fit a sampler's grid of times to a run: python -m experiments.fit_grid --workdir RUN

For a trained run, measures how much a sampler learns about the text in equal intervals of time, in nats
per position with a standard error over sequences. Prints the values and stores them in the run as
sampling-grid.json. A sampler with grid="fitted" then gives every step an equal share.
"""

from experiments import cli


def main(arguments: list[str]) -> dict:
    """The record of the measured loss, which is written beside the run's checkpoints."""
    options = cli.parser("fit_grid", __doc__)
    options.add_argument("--workdir", required=True, help="the run directory")
    options.add_argument(
        "--bins", type=cli.positive, default=32, help="intervals of time (default 32)"
    )
    options.add_argument(
        "--num-sequences",
        type=cli.positive,
        default=256,
        help="number of sequences, evenly spaced in the split (default 256)",
    )
    options.add_argument(
        "--split", default="validation", help="train, validation (default) or test"
    )
    options.add_argument("--step", type=cli.natural, help="which checkpoint (default: the newest)")
    options.add_argument(
        "--seed", type=cli.natural, default=0, help="seed of times and noise (default 0)"
    )
    options.add_argument("--config", help="the file that defines your own process")
    options.add_argument(
        "--out", type=cli.output, help="where to write (default: sampling-grid.json in the run)"
    )
    cli.add_set(options)
    args = options.parse_args(arguments)

    from pathlib import Path

    from experiments.errors import UserError
    from experiments.run import load_run
    from experiments.sampling.grid import FILE, MOST_BINS, measure, table, write_grid

    if args.bins > MOST_BINS:
        raise UserError(f"--bins {args.bins} must be at most {MOST_BINS}")
    if args.num_sequences < 2:
        raise UserError("--num-sequences must be at least 2, to have a standard error")
    run = load_run(args.workdir, args.step, args.set, args.config)
    record = measure(
        run,
        args.split,
        args.num_sequences,
        args.bins,
        args.seed,
        cli.log,
    )
    out = Path(args.out or Path(args.workdir) / FILE)
    write_grid(out, record)
    print(f"{table(record)}\nsampling grid: {out}")
    return record


if __name__ == "__main__":
    cli.run("fit_grid")
