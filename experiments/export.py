"""Export a run as safetensors and JSON for others to load.

An imported run is written in its original layout, with identical bytes for tensors that were not
trained. Other runs use the layout of a published family if their network and process belong to one, and
our own layout otherwise. A model card (README.md) reports the evaluations.

Examples:
    ddlm export --workdir runs/a --to exported/a
    ddlm export --workdir runs/a --to exported/a --family mdlm
"""

from experiments import cli


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("export", __doc__)
    options.add_argument("--workdir", required=True, help="the run directory")
    options.add_argument("--to", required=True, metavar="FOLDER", help="the folder to create")
    options.add_argument(
        "--family", help="the layout (see ddlm import --list), or ddlm for our own"
    )
    options.add_argument(
        "--mask-token", type=cli.natural, metavar="N", help="number of the mask in the files"
    )
    options.add_argument(
        "--start-token",
        type=cli.natural,
        metavar="N",
        help="number of the start token in the files",
    )
    options.add_argument("--step", type=cli.natural, help="which checkpoint (default: the newest)")
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the folder is made."""
    args = command_line().parse_args(arguments)

    from pathlib import Path

    from experiments.published.exporting import export_run
    from experiments.published.family import Options
    from experiments.run import load_run, merged

    workdir, folder = (Path(path).expanduser() for path in (args.workdir, args.to))
    run = merged(load_run(str(workdir), args.step))
    options = Options(mask=args.mask_token, start=args.start_token)
    name = export_run(run, workdir, folder, args.family, options)
    cli.log(f"exported to {args.to} in the layout {name}; ddlm import reads it back")


if __name__ == "__main__":
    cli.run("export")
