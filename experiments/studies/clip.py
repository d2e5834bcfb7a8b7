"""Find the times to train block diffusion at: python -m experiments.studies.clip --workdir RUN

For several intervals (low, high) of training times, measures how noisy a batch's gradient is at the
parameters of a BlockDiffusion run: the variance over --batches batches, summed over all parameters,
divided by the squared norm of the mean gradient. The mean gradient differs between intervals, so only
this ratio can be compared. Train with the interval that has the smallest ratio, for instance
`--set process.clip=0.3,0.8`. The bound always uses all times.
"""

from experiments import cli
from experiments.errors import UserError

INTERVALS = (
    (0.0, 1.0), (0.0, 0.5), (0.0, 0.8), (0.2, 0.7), (0.3, 0.8), (0.45, 0.95), (0.5, 1.0), (0.2, 1.0),
)  # fmt: skip


def main(arguments: list[str]) -> dict:
    """The record: for each interval of times, the noise of the gradient and the loss."""
    options = cli.parser("studies.clip", __doc__)
    options.add_argument("--workdir", required=True, help="the run directory")
    options.add_argument(
        "--batches", type=cli.positive, default=32, help="batches per interval (default 32)"
    )
    options.add_argument("--step", type=cli.natural, help="which checkpoint (default: the newest)")
    options.add_argument("--seed", type=cli.natural, default=0)
    options.add_argument("--out", type=cli.output, help="a .json file to write the figures to")
    args = options.parse_args(arguments)
    if args.batches < 2:
        raise UserError("--batches must be at least 2, to have a variance")

    import math

    from experiments.files import write_atomically
    from experiments.plain_json import dumped
    from experiments.run import load_run
    from experiments.studies.measuring.gradient_noise import measure

    run = load_run(args.workdir, args.step)
    rows = measure(run, INTERVALS, args.batches, args.seed, cli.log)
    best = min(rows, key=lambda row: row["noise"])
    if best["noise"] == math.inf:
        raise UserError(
            f"{args.batches} batches do not show a mean gradient above its noise; give more --batches"
        )
    low, high = best["clip"]
    record = {"workdir": args.workdir, "checkpoint_step": run.step, "rows": rows}
    if args.out:
        write_atomically(args.out, dumped(record, indent=1) + "\n")
    print(f"least noise: --set process.clip={low},{high}")
    return record


if __name__ == "__main__":
    cli.run("studies.clip")
