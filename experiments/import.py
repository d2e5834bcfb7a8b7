"""Import a published checkpoint as a run.

SOURCE is a folder with the weights (model.safetensors, shards, or one torch file) and their config.json,
a single weight file, or a name on the Hugging Face Hub. The result is an ordinary run, which you can
evaluate, sample, compress and fine-tune (train --set init_from=RUN). --list shows the supported
families. No code from the files is executed.

Examples:
    ddlm import --list
    ddlm import downloads/mdlm-owt --tokenizer downloads/gpt2 --workdir runs/mdlm-owt
    ddlm import mdlm.ckpt --family mdlm --tokenizer downloads/gpt2 --workdir runs/mdlm
"""

from experiments import cli
from experiments.errors import UserError


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("import", __doc__)
    options.add_argument("source", nargs="?", metavar="SOURCE", help="the checkpoint")
    options.add_argument("--workdir", help="the run directory to create")
    options.add_argument("--list", action="store_true", help="list the supported families")
    options.add_argument("--family", help="the family, if the files do not identify it")
    options.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="tokenizer files (default: those beside the checkpoint; if none, texts are numbers)",
    )
    options.add_argument("--mask-token", metavar="TOKEN", help="the mask token, by number or name")
    options.add_argument(
        "--start-token", type=cli.natural, metavar="N", help="number of the start token"
    )
    options.add_argument(
        "--block-size", type=cli.positive, metavar="N", help="tokens of a block (block diffusion)"
    )
    options.add_argument(
        "--length", type=cli.positive, metavar="N", help="tokens of a sequence (default: its own)"
    )
    options.add_argument(
        "--raw",
        action="store_true",
        help="use the parameters of the last step even if the file has an EMA",
    )
    options.add_argument("--revision", help="commit, branch or tag on the Hub (default: main)")
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the run is made, or the list printed."""
    args = command_line().parse_args(arguments)
    if args.list:
        from experiments.published.catalogue import table

        print(table())
        return
    if args.source is None or args.workdir is None:
        raise UserError("import takes SOURCE and --workdir, or --list; see ddlm import --help")

    from pathlib import Path

    from experiments.published.family import Options
    from experiments.published.hub import fetch
    from experiments.published.importing import import_run
    from experiments.published.making import check_absent

    source, workdir = Path(args.source).expanduser(), Path(args.workdir).expanduser()
    name = revision = None
    check_absent(workdir, "--workdir")
    if not source.exists():
        name = args.source
        source, revision = fetch(name, args.revision, cli.log)
    elif args.revision:
        raise UserError("--revision is for names on the Hub; leave it out")
    options = Options(start=args.start_token, length=args.length, block_size=args.block_size)
    import_run(
        source,
        workdir,
        args.family,
        args.tokenizer,
        args.mask_token,
        options,
        name,
        revision,
        average=not args.raw,
        log=cli.log,
    )
    cli.log(f"imported to {args.workdir}; for instance: ddlm sample --workdir {args.workdir}")


if __name__ == "__main__":
    cli.run("import")
