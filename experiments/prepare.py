"""Prepare a published corpus, or your own documents, as text files.

Creates a folder of plain text: DIR/train.txt, valid.txt and test.txt, and DIR/dataset.json, which
describes their source. Train on it with --set data.path=DIR. Published files are verified against their
checksums. After an interruption, run the same command to continue.

Examples:
    ddlm prepare --dataset ptb --out data/ptb
    ddlm prepare --dataset documents --source FOLDER --out data/mine
    ddlm prepare --dataset documents --source a.parquet --column content --out data/tables
"""

from experiments import cli
from experiments.data.builders import DATASETS

_LIST = "".join(f"  {name:<12} {what}\n" for name, (_, _, what) in DATASETS.items())


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser(
        "prepare", str(__doc__).replace("Examples:", f"Datasets:\n{_LIST}\nExamples:")
    )
    options.add_argument(
        "--dataset", required=True, metavar="NAME", help="one of the datasets above"
    )
    options.add_argument(
        "--source",
        help="the published files, compressed or not (default: download to DIR/.downloads)",
    )
    options.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    options.add_argument(
        "--partial", action="store_true", help="accept an incomplete corpus, such as only test"
    )
    options.add_argument(
        "--column",
        default="text",
        metavar="NAME",
        help="for --dataset documents: the field or column that has the text (default: text)",
    )
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the splits of the corpus are written as text files."""
    args = command_line().parse_args(arguments)

    from pathlib import Path

    from experiments.data.builders import builder_class
    from experiments.data.preparing import prepare

    kind = builder_class(args.dataset)
    out = Path(args.out).expanduser()
    described = prepare(kind, args.source, out, args.partial, cli.log, args.column)
    settings = "" if kind.name == "text8" else " --set data.tokenizer=Characters"
    if len(described["splits"]) == 3:
        print(
            f"train on it: ddlm train --config FILE --workdir RUN --set data.path={out}{settings}"
        )
    else:
        splits = list(described["splits"])
        print(f"evaluate on it: ddlm evaluate --workdir RUN --text {out} --split {splits[-1]}")


if __name__ == "__main__":
    cli.run("prepare")
