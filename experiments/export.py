"""Write a run as safetensors and JSON for others to load.

A run that was imported goes back into the layout that it came in, its tensors byte for byte where
nothing was trained. Another goes into the layout of a published family where its network and process
are of one, else into our own. A card (README.md) says what was measured.

Examples:
    ddlm export --workdir runs/a --to exported/a
    ddlm export --workdir runs/a --to exported/a --family mdlm
"""

from experiments import cli


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("export", __doc__)
    options.add_argument("--workdir", required=True, help="the run directory")
    options.add_argument("--to", required=True, metavar="FOLDER", help="the folder to make")
    options.add_argument("--family", help="the layout (ddlm import --list), or ddlm for our own")
    options.add_argument(
        "--mask-token", type=cli.natural, metavar="N", help="the mask's number in the files"
    )
    options.add_argument(
        "--start-token", type=cli.natural, metavar="N", help="what a text begins with, in the files"
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
