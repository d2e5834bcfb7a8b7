"""Restore a text that `compress` wrote, byte for byte.

Needs the same run, checkpoint and version that compressed it.

Examples:
    ddlm decompress --workdir runs/a text.txt.ddlm
    ddlm decompress --workdir runs/a text.ddlm --out text.txt
"""

from experiments import cli


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("decompress", __doc__)
    options.add_argument("file", help="a file that `compress` wrote")
    options.add_argument("--workdir", required=True, help="the run that compressed it")
    options.add_argument("--config", help="the file that defines your own process")
    options.add_argument(
        "--out", type=cli.output, help="where to write (default: FILE without .ddlm)"
    )
    cli.add_force(options)
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the text that `compress` was given is written."""
    args = command_line().parse_args(arguments)

    from pathlib import Path

    from experiments.compression.archive import check_fits, sha256, unpack
    from experiments.compression.coding import decode, make_distributions
    from experiments.compression.text import (
        check_rows,
        first_distribution,
        read_bytes,
        to_bytes,
    )
    from experiments.errors import UserError
    from experiments.files import check_new, write_atomically
    from experiments.progress import Progress
    from experiments.run import load_run

    path = Path(args.file)
    header, words = unpack(read_bytes(path), path)
    if not args.out and path.suffix != ".ddlm":
        raise UserError(f"{path}: its name does not end in .ddlm; say where to write with --out")
    out = Path(args.out or path.with_suffix(""))
    check_new(out, args.force)
    try:
        run = load_run(args.workdir, header.step, config=args.config)
    except UserError as error:
        raise UserError(f"{path}: made with checkpoint {header.step} of a run; {error}") from error
    check_fits(header, path, args.workdir, run.fingerprint)
    if header.rows > max(1, -(-header.tokens // run.experiment.data.length)):
        raise UserError(
            f"{path}: its header is damaged ({header.rows} rows of fewer); compress the text again"
        )
    check_rows(header.rows, run.experiment, path)
    distributions = make_distributions(run, header.rows, header.group, header.seed)
    elsewhere = (
        f"made on {header.device} with jax {header.jax}, and the probabilities of this machine differ "
        "in their last digits; decompress it on such a machine"
    )
    if first_distribution(distributions) != header.first_distribution:
        raise UserError(f"{path}: {elsewhere}")
    try:
        with Progress(cli.log) as progress:
            tokens = decode(distributions, words, header.tokens, progress)
    except MemoryError as error:
        raise UserError(
            f"{path}: its {header.tokens:,} tokens do not fit into this machine's memory"
        ) from error
    content = to_bytes(run.experiment.data.tokenizer, tokens)
    if sha256(content) != header.text_sha256:
        raise UserError(f"{path}: {elsewhere}; nothing was written")
    write_atomically(out, content)
    print(f"{out}: {len(content):,} bytes, restored exactly")


if __name__ == "__main__":
    cli.run("decompress")
