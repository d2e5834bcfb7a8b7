"""Train SentencePiece: python -m experiments.train_sentencepiece --data FILE --out spm.model

Of the lines of a text, or of those of a directory or archive that are named after train, where some
are; a run takes it with --set data.tokenizer=Subwords --set data.tokenizer.path=spm.model. The 8,192
tokens of the LM1B protocol of D3PM (arXiv 2107.03006) are the default.
"""

from experiments import cli
from experiments.errors import UserError


def main(arguments: list[str]) -> None:
    """Nothing; the vocabulary is trained and written."""
    options = cli.parser("train_sentencepiece", __doc__)
    options.add_argument("--data", required=True, help="a text file, or a directory of them")
    options.add_argument("--out", required=True, type=cli.output, help="the .model file to write")
    options.add_argument("--vocab-size", type=cli.positive, default=8192)
    options.add_argument("--model-type", choices=["unigram", "bpe"], default="unigram")
    options.add_argument(
        "--sentences", type=cli.positive, default=2_000_000, help="the first so many lines at most"
    )
    args = options.parse_args(arguments)

    import io
    from itertools import islice
    from pathlib import Path

    import sentencepiece

    from experiments.data.text import Text, training_lines
    from experiments.files import write_atomically

    if not args.out.endswith(".model"):
        raise UserError(f"--out {args.out} must end with .model, by which it is known")
    if not Path(args.data).expanduser().exists():
        raise UserError(f"--data {args.data} does not exist; give a text file or a directory")
    lines = list(islice(training_lines(Text(args.data)), args.sentences))
    cli.log(f"{len(lines):,} lines, {sum(map(len, lines)):,} characters")
    made = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=made,
            vocab_size=args.vocab_size,
            model_type=args.model_type,
            character_coverage=1.0,
            minloglevel=2,
        )
    except RuntimeError as error:
        # "INTERNAL: file.cc(123) [condition] message": the library gives no more than this text.
        message = " ".join(str(error).split()).rpartition("] ")[2]
        raise UserError(f"--data {args.data}, --vocab-size {args.vocab_size}: {message}") from error
    write_atomically(args.out, made.getvalue())
    print(f"vocabulary of {args.vocab_size}: {args.out}")


if __name__ == "__main__":
    cli.run("train_sentencepiece")
