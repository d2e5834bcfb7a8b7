"""Measure the quality of samples, next to an equal amount of real text.

Reads a file that `sample --out` wrote. For the samples and the real text it measures:

    bits per character and perplexity per token under a scorer, with the standard error over samples
    entropy of characters and of their 2- and 3-grams, and distinct 1-, 2- and 3-grams of words
    the shares of words and word n-grams that occur in the training text, and the longest match with it
    MAUVE, with --mauve

No single number measures quality: repeated or copied text has a low perplexity, and noise has a high
entropy and novelty. The real text is the validation split of the run in --workdir, by default the
scorer. An imported run has no text of its own, so name one with --text. Prints a table and writes a
record.

Examples:
    ddlm quality --samples s.jsonl --scorer runs/ar
    ddlm quality --samples s.jsonl --scorer gpt2-folder --workdir runs/a --mauve
"""

from experiments import cli


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("quality", __doc__)
    options.add_argument("--samples", required=True, help="the .jsonl file")
    options.add_argument(
        "--scorer",
        required=True,
        help="the run of an autoregressive model, or a local folder of a causal language model in the "
        'format of the transformers library (pip install -e ".[transformers]")',
    )
    options.add_argument(
        "--workdir",
        help="the run whose training and validation text to compare with (default: the scorer)",
    )
    options.add_argument(
        "--text",
        help="a file or directory to use in place of that run's text, split as for training",
    )
    options.add_argument(
        "--train", metavar="TEXT", help="another training text: a file or directory, used whole"
    )
    options.add_argument(
        "--ngram", type=cli.positive, default=4, help="words per n-gram for novelty (default 4)"
    )
    options.add_argument(
        "--mauve", action="store_true", help='MAUVE by the scorer (pip install -e ".[mauve]")'
    )
    options.add_argument(
        "--out", type=cli.output, help="where to write the record (default: SAMPLES.quality.json)"
    )
    return options


def main(arguments: list[str]) -> dict:
    """The record of the quality of the samples."""
    args = command_line().parse_args(arguments)

    from pathlib import Path

    from experiments.files import write_atomically
    from experiments.plain_json import dumped
    from experiments.sample_metrics.record import measure
    from experiments.sample_metrics.table import table

    record = measure(
        Path(args.samples),
        args.scorer,
        cli.log,
        workdir=args.workdir,
        text=args.text,
        training_text=args.train,
        ngram=args.ngram,
        with_mauve=args.mauve,
    )
    out = Path(args.out or Path(args.samples).with_suffix(".quality.json"))
    write_atomically(out, dumped(record, indent=1) + "\n")
    print(f"\n{table(record)}\nrecord: {out}")
    return record


if __name__ == "__main__":
    cli.run("quality")
