"""Score a run's answers to the prompts of its data.

For a run trained on pairs of prompt and answer (data.rows=pair). Draws an answer to each of --num
prompts of a split and compares it with the reference:

    exact              the share of answers that are the reference
    characters wrong   characters to put in, leave out or replace, by those of the references
    words wrong        the same of words
    BLEU, chrF         of the whole set, where sacrebleu is installed (pip install -e ".[bleu]")

with standard errors over prompts. With --candidates N, N answers are drawn to each prompt, and the one
most like the others is kept (minimum Bayes risk); its gain over a random one is reported. Answers are
appended to RUN/scores/ as they are drawn, and the record is written beside them: after an interruption,
or with more --candidates, run the command again to continue.

Examples:
    ddlm score --workdir runs/a
    ddlm score --workdir runs/a --candidates 8 --sampler "Unmask amount=Threshold" --num 1000
    ddlm score --workdir runs/a --answer-length predicted --candidates 21 --length-beam 7
"""

from experiments import cli


def _length(text: str) -> int | str:
    return int(text) if text.isdecimal() and int(text) > 0 else text


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("score", __doc__)
    options.add_argument("--workdir", required=True, help="the run directory")
    options.add_argument(
        "--split", default="test", help="whose prompts: train, validation or test (default)"
    )
    options.add_argument(
        "--num",
        type=cli.positive,
        default=256,
        help="at most so many prompts, evenly spaced in the split (default 256)",
    )
    options.add_argument(
        "--candidates", type=cli.positive, default=1, help="answers to each prompt (default 1)"
    )
    options.add_argument(
        "--similarity",
        default="characters",
        help="by which a candidate is like the others: characters (default), words, exact or bleu",
    )
    options.add_argument(
        "--answer-length",
        type=_length,
        default="end",
        metavar="LENGTH",
        help="end (default): the model writes data.end; or given: reference, that of the reference; "
        "predicted, the likeliest after a prompt of this length; or a number of tokens",
    )
    options.add_argument(
        "--length-beam",
        type=cli.positive,
        metavar="B",
        help="candidates of the B likeliest lengths, of predicted (default: a third of the candidates)",
    )
    options.add_argument(
        "--sampler", help='a sampler (docs/samplers.md), with settings as "NAME setting=value"'
    )
    options.add_argument(
        "--steps", type=cli.positive, help="steps of the sampler (default: the config's)"
    )
    options.add_argument(
        "--temperature", type=float, help="divides log p; 0 takes the most likely token"
    )
    options.add_argument(
        "--seed", type=cli.natural, default=0, help="seed of all draws (default 0)"
    )
    options.add_argument("--batch-size", type=cli.positive, default=64, help="answers at a time")
    options.add_argument("--step", type=cli.natural, help="which checkpoint (default: the newest)")
    options.add_argument("--config", help="the file that defines your own process or sampler")
    options.add_argument(
        "--out", type=cli.output, help="where to write the record (default: beside the answers)"
    )
    options.add_argument(
        "--force", action="store_true", help="draw answers anew that are there already"
    )
    cli.add_set(options)
    return options


def main(arguments: list[str]) -> dict:
    """The record of the answers' measures."""
    args = command_line().parse_args(arguments)

    from pathlib import Path

    from experiments.answers.scoring import Task, score
    from experiments.answers.table import table
    from experiments.files import write_atomically
    from experiments.plain_json import dumped
    from experiments.run import load_run
    from experiments.sampling.request import Request

    task = Task(
        args.split, args.num, args.candidates, args.similarity, args.answer_length, args.length_beam
    )
    request = Request(
        sampler=args.sampler,
        steps=args.steps,
        temperature=args.temperature,
        seed=args.seed,
        changes=tuple(args.set),
    )
    of_run = [change for change in args.set if not change.startswith("sampler")]
    run = load_run(args.workdir, args.step, of_run, args.config)
    folder = Path(args.workdir) / "scores"
    record, answers = score(
        run, args.workdir, request, task, args.batch_size, cli.log, folder, args.force
    )
    assert answers is not None  # as there is a folder
    out = Path(args.out or answers.with_name(f"{answers.stem}-{args.candidates}.json"))
    write_atomically(out, dumped(record, indent=1) + "\n")
    print(f"\n{table(record)}\nanswers: {answers}\nrecord: {out}")
    return record


if __name__ == "__main__":
    cli.run("score")
