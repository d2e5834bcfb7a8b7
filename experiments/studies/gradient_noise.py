"""The noise of gradients by settings: python -m experiments.studies.gradient_noise --workdir RUN

For each --setting it measures, at the parameters of a run, how noisy the gradient of a batch is: the
variance over --batches batches, summed over all parameters, over the squared length of the mean
gradient. Losses have gradients of different means, which is why only the ratio can be compared. A batch
of some settings takes more work than one of the run's own; "at equal cost" multiplies the noise by that.
What a weight of times learns it learns of the same batches before. The bound is the same whatever is
chosen.

Without --setting: the run's own, the weights of times that go with its process, and losses of tokens; of
a run of BlockDiffusion the intervals of times, process.clip.

Examples:
    python -m experiments.studies.gradient_noise --workdir runs/a
    python -m experiments.studies.gradient_noise --workdir runs/a \\
        --setting "train.time_weight=Tempered train.time_weight.power=0.3" \\
        --setting train.token_loss=ZLoss
"""

from experiments import cli
from experiments.errors import UserError

INTERVALS = tuple(
    f"process.clip={low},{high}"
    for low, high in (
        (0.0, 1.0), (0.0, 0.5), (0.0, 0.8), (0.2, 0.7), (0.3, 0.8), (0.45, 0.95), (0.5, 1.0), (0.2, 1.0),
    )
)  # fmt: skip
RECIPES = (
    "train.time_weight=AsBound",
    "train.time_weight=Tempered",
    "train.time_weight=Tempered train.time_weight.power=0",
    "train.time_weight=Clipped",
    "train.time_weight=Dynamic",
    "train.time_weight=Complementary",
    "train.time_weight=Complementary train.time_weight.weight=Tempered",
    "train.time_weight=StratifiedCounts",
    "train.time_weight=LearnedTimes",
    "train.token_loss=LabelSmoothing",
    "train.token_loss=Focal",
    "train.token_weight=Goldfish",
)


def main(arguments: list[str]) -> dict:
    """The record: for each setting, the noise of the gradient, its cost and the loss."""
    options = cli.parser("studies.gradient_noise", __doc__)
    options.add_argument("--workdir", required=True, help="the run directory")
    options.add_argument(
        "--setting",
        action="append",
        metavar="'PATH=VALUE ...'",
        help="overrides of train and process that are measured together; may be repeated",
    )
    options.add_argument(
        "--batches", type=cli.positive, default=32, help="for each setting (default 32)"
    )
    options.add_argument("--step", type=cli.natural, help="which checkpoint (default: the newest)")
    options.add_argument("--seed", type=cli.natural, default=0)
    options.add_argument("--out", type=cli.output, help="a .json file to write the figures to")
    args = options.parse_args(arguments)
    if args.batches < 2:
        raise UserError("--batches must be at least 2, to have a variance")

    import math

    from diffusion.block import BlockDiffusion
    from experiments.files import write_atomically
    from experiments.plain_json import dumped
    from experiments.run import load_run
    from experiments.studies.measuring.gradient_noise import measure, those_that_fit

    run = load_run(args.workdir, args.step)
    usual = INTERVALS if isinstance(run.experiment.process, BlockDiffusion) else RECIPES
    settings = args.setting or those_that_fit(run.experiment, usual)
    rows = measure(run, ["", *settings], args.batches, args.seed, cli.log)
    best = min(rows, key=lambda row: row["noise_at_equal_cost"])
    if best["noise"] == math.inf:
        raise UserError(
            f"{args.batches} batches do not show a mean gradient above its noise; give more --batches"
        )
    record = {"workdir": args.workdir, "checkpoint_step": run.step, "rows": rows}
    if args.out:
        write_atomically(args.out, dumped(record, indent=1) + "\n")
    chosen = " ".join(f"--set {word}" for word in best["setting"].split())
    least = chosen or "the settings of the run"
    print(f"least noise at equal cost, of {args.batches} batches, with no error estimated: {least}")
    return record


if __name__ == "__main__":
    cli.run("studies.gradient_noise")
