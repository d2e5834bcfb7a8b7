"""Train a model from an experiment config, or continue a run.

The run directory gets config.json, metrics.jsonl, tensorboard/ and checkpoints/. Where it already holds
a run of this config, training continues from the newest checkpoint.

Examples:
    ddlm train --config configs/sotu/quickstart.py --workdir runs/a
    ddlm train --config configs/sotu/mdlm.py --workdir runs/b --set optimizer.schedule.peak_lr=1e-3
"""

from experiments import cli


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("train", __doc__)
    options.add_argument("--config", required=True, help="a Python file that defines get_config()")
    options.add_argument(
        "--workdir", required=True, help="the run directory, new or to be continued"
    )
    cli.add_set(options)
    cli.add_distributed(options)
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the run is trained to its last step."""
    args = command_line().parse_args(arguments)

    from pathlib import Path

    from experiments.devices.distributed import start
    from experiments.overrides import load, reading_options
    from experiments.training.trainer import train

    start(args.distributed, stop_together=True)
    experiment = load(args.config, args.set)
    options = reading_options(experiment, args.config, args.set)
    train(experiment, Path(args.workdir), cli.log, options)


if __name__ == "__main__":
    cli.run("train")
