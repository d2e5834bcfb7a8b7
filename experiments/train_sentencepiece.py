"""Train SentencePiece: python -m experiments.train_sentencepiece --data FILE --out spm.model

Trains on the lines of a text, or on the files of a directory or archive that are named after train, if
there are any. A run uses the vocabulary with --set data.tokenizer=Subwords --set
data.tokenizer.path=spm.model. The default size is the 8,192 tokens of D3PM's LM1B protocol
(arXiv 2107.03006).
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
        "--sentences", type=cli.positive, default=2_000_000, help="use at most this many lines"
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
