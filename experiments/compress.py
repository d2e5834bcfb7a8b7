"""Compress a text with a run's model.

Uses the predictions of a masked or autoregressive model (experiments/compression/coding.py). Prints the
size of the file next to the code length that the model predicts, and next to gzip, xz and zstd.
`decompress` restores the text and needs the same checkpoint.

Examples:
    ddlm compress --workdir runs/a text.txt
    ddlm compress --workdir runs/a text.txt --group 8 --out text.ddlm
"""

from experiments import cli


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("compress", __doc__)
    options.add_argument("file", help="the text, in the alphabet of the run")
    options.add_argument("--workdir", required=True, help="the run directory")
    options.add_argument(
        "--group",
        type=cli.positive,
        default=1,
        help="tokens per call of a masked model; more means fewer calls but more bits (default 1)",
    )
    options.add_argument(
        "--batch-size", type=cli.positive, default=64, help="sequences coded at a time (default 64)"
    )
    options.add_argument(
        "--seed", type=cli.natural, default=0, help="seed of the orders (default 0)"
    )
    options.add_argument("--step", type=cli.natural, help="which checkpoint (default: the newest)")
    options.add_argument("--config", help="the file that defines your own process")
    options.add_argument("--out", type=cli.output, help="where to write (default: FILE.ddlm)")
    cli.add_force(options)
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the compressed file is written, and its size printed beside that of others."""
    args = command_line().parse_args(arguments)

    from importlib.metadata import version
    from pathlib import Path

    import jax

    from experiments.compression.archive import Header, pack, sha256
    from experiments.compression.coding import encode, make_distributions
    from experiments.compression.text import (
        compressors,
        first_distribution,
        read_bytes,
        report,
        to_tokens,
    )
    from experiments.data.tokenizers import count
    from experiments.files import check_new, write_atomically
    from experiments.progress import Progress
    from experiments.run import load_run

    path = Path(args.file)
    out = Path(args.out or f"{path}.ddlm")
    check_new(out, args.force)
    content = read_bytes(path)
    run = load_run(args.workdir, args.step, config=args.config)
    tokens = to_tokens(run.experiment.data.tokenizer, content, path)
    length = run.experiment.data.length
    rows = min(args.batch_size, max(1, -(-len(tokens) // length)))
    distributions = make_distributions(run, rows, args.group, args.seed)
    fingerprint = first_distribution(distributions)
    with Progress(cli.log) as progress:
        words, promised = encode(distributions, tokens, progress)
    header = Header(
        version("ddlm"), jax.__version__, jax.devices()[0].device_kind, run.fingerprint, run.step,
        len(tokens), rows, args.group, args.seed, fingerprint, sha256(content),
        sha256(words.astype("<u4")),
    )  # fmt: skip
    packed = pack(header, words)
    write_atomically(out, packed)
    characters, _ = count(content.decode("utf-8", "surrogateescape"))
    print(f"{path}: {characters:,} characters, {len(content):,} bytes; checkpoint {run.step}")
    sizes: dict[str, float] = {
        "code length of the model": promised / 8,
        f"coded, {args.group} a call": words.nbytes,
        f"{out.name}, with its header": len(packed),
    }
    print(report(sizes | compressors(content), content))


if __name__ == "__main__":
    cli.run("compress")
