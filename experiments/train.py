"""Train a model from an experiment config, or continue a run.

Writes config.json, metrics.jsonl, tensorboard/ and checkpoints/ into the run directory. If the directory
already has a run of this config, training continues from its newest checkpoint.

Examples:
    ddlm train --config configs/sotu/quickstart.py --workdir runs/a
    ddlm train --config configs/sotu/mdlm.py --workdir runs/b --set optimizer.schedule.peak_lr=1e-3
    ddlm train --config configs/sotu/mdlm.py --dry-run
"""

from experiments import cli


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("train", __doc__)
    options.add_argument("--config", required=True, help="a Python file that defines get_config()")
    options.add_argument("--workdir", help="the run directory, new or to continue")
    options.add_argument(
        "--dry-run",
        action="store_true",
        help="show settings, sizes, memory, the time of a step and the expected end; write nothing; "
        "--workdir may be left out",
    )
    cli.add_set(options)
    cli.add_distributed(options)
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the run is trained to its last step, or what it would be is printed."""
    options = command_line()
    args = options.parse_args(arguments)
    if args.workdir is None and not args.dry_run:
        options.error("the following arguments are required: --workdir (or --dry-run)")
    if args.workdir == "":
        options.error("--workdir is empty; give the name of a directory")

    from pathlib import Path

    from experiments.devices.distributed import start
    from experiments.overrides import load, reading_options
    from experiments.training.dry_run import dry_run, report
    from experiments.training.trainer import train

    start(args.distributed, stop_together=not args.dry_run)
    experiment = load(args.config, args.set)
    workdir = None if args.workdir is None else Path(args.workdir)
    if args.dry_run or workdir is None:
        print(report(dry_run(experiment, workdir, cli.log), workdir))
    else:
        train(experiment, workdir, cli.log, reading_options(experiment, args.config, args.set))


if __name__ == "__main__":
    cli.run("train")
