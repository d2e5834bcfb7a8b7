"""Make text files of a published corpus, or of documents of your own.

Makes a folder of plain text: DIR/train.txt, valid.txt and test.txt, and DIR/dataset.json with what they
are made of. Train on it with --set data.path=DIR. What is published is checked against its checksums.
After a kill, the same command goes on where it was.

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
        help="the files as published, packed or not (default: downloaded to DIR/.downloads)",
    )
    options.add_argument("--out", required=True, metavar="DIR", help="the folder to be written")
    options.add_argument(
        "--partial", action="store_true", help="take what is there of a corpus, such as test alone"
    )
    options.add_argument(
        "--column",
        default="text",
        metavar="NAME",
        help="of --dataset documents: where JSON records and tables have their text (default: text)",
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
