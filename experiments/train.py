"""Train: ddlm train --config configs/sotu/mdlm.py --workdir runs/a [--set A.B=C ...]

The run directory gets config.json, metrics.jsonl, tensorboard/ and checkpoints/. Where it already holds
a run of this config, training continues from the newest checkpoint.
"""

from experiments import cli


def main(arguments: list[str]) -> None:
    """Nothing; the run is trained to its last step."""
    options = cli.parser("train", __doc__)
    options.add_argument("--config", required=True, help="a Python file that defines get_config()")
    options.add_argument(
        "--workdir", required=True, help="the run directory, new or to be continued"
    )
    cli.add_set(options)
    cli.add_distributed(options)
    args = options.parse_args(arguments)

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
