"""Draw samples of text from a trained run.

Known text is a --prompt, the first characters, or a --template in which the --blank character stands for
each token that the model fills in; known tokens never change. Sample number i depends on the seed and i
alone, not on the batch size or on how many are drawn, up to rounding, which now and then changes a draw.
Where a sampler ranks positions by the model's confidence, the seed breaks ties, at temperature 0 too.

With --out samples are written as they are drawn, one JSON object a line, and the same command (with any
--num and --batch-size) continues what was interrupted.

Examples:
    ddlm sample --workdir runs/a --num 8 --steps 64 --prompt "the state of"
    ddlm sample --workdir runs/a --template "we ____ the people" --trace trace.html
    ddlm sample --workdir runs/a --num 1000 --temperature 0.9 --out s.jsonl
"""

import dataclasses

from experiments import cli
from experiments.errors import UserError
from experiments.streams import on_terminal


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("sample", __doc__)
    options.add_argument("--workdir", required=True, help="the run directory")
    options.add_argument("--num", type=cli.positive, default=8, help="how many samples (default 8)")
    options.add_argument(
        "--steps", type=cli.positive, help="steps of the sampler (default: the config's)"
    )
    options.add_argument("--length", type=cli.positive, help="tokens (default: as trained)")
    options.add_argument("--seed", type=cli.natural, help="of all that is drawn (default 0)")
    options.add_argument(
        "--sampler", help="its name (docs/samplers.md); settings: --set sampler.X=Y"
    )
    options.add_argument(
        "--grid", help="where the steps are: uniform, cosine, or fitted to the run"
    )
    options.add_argument("--batch-size", type=cli.positive, default=16, help="samples at a time")
    options.add_argument("--step", type=cli.natural, help="which checkpoint (default: the newest)")
    options.add_argument("--config", help="the file that defines your own process or sampler")
    options.add_argument("--out", type=cli.output, help="a .jsonl file to append the samples to")
    cli.add_force(options)
    options.add_argument(
        "--trace", type=cli.output, help="an .html file that plays how the samples came about"
    )
    options.add_argument(
        "--watch", action="store_true", help="play in the terminal how the samples came about"
    )
    known = options.add_argument_group("known text")
    known.add_argument("--prompt", type=cli.text, help="text that every sample begins with")
    known.add_argument(
        "--template",
        type=cli.text,
        help="text with blanks, each for one token, from the first position on",
    )
    known.add_argument("--blank", type=cli.text, help="the character for a blank (default _)")
    known.add_argument(
        "--require",
        type=cli.text,
        action="append",
        metavar="TEXT",
        help="text that every sample contains, where the model puts it; may be repeated",
    )
    distribution = options.add_argument_group(
        "changes to the model's distribution of each token, in this order"
    )
    distribution.add_argument(
        "--ban",
        type=cli.text,
        metavar="TEXT",
        help="never draw the tokens of this text; of subwords also the one token, if any, that the text "
        "is after a space or within a word; prints which",
    )
    distribution.add_argument(
        "--repetition", type=float, help="subtracted from log p for each other occurrence"
    )
    distribution.add_argument(
        "--temperature", type=float, help="divides log p; 0 takes the likeliest token"
    )
    distribution.add_argument("--top-k", type=cli.positive, help="keep the k likeliest tokens")
    distribution.add_argument(
        "--top-p", type=float, help="keep the likeliest with this mass together"
    )
    distribution.add_argument(
        "--min-p", type=float, help="drop what is less likely than this share of the top"
    )
    distribution.add_argument("--eta", type=float, help="eta sampling (arXiv 2210.15191)")
    label = options.add_argument_group("labels, for runs trained with them, or with a classifier")
    label.add_argument("--label", type=cli.text, help="its name")
    label.add_argument(
        "--guidance", type=float, help="strength; 1, the default, is the label's distribution"
    )
    label.add_argument(
        "--classifier",
        metavar="RUN",
        help="a classifier of the run's noisy text (configs/sotu/classifier.py) guides to its label",
    )
    label.add_argument(
        "--exact",
        action="store_true",
        help="ask the classifier for every change of one token, not for its gradient: slow",
    )
    label.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="times within which guidance acts (default: 0 1)",
    )
    cli.add_set(options)
    cli.add_distributed(options)
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the samples are printed or written."""
    args = command_line().parse_args(arguments)
    if args.watch and not on_terminal():
        raise UserError(
            "--watch plays in a terminal, which standard output is not; leave it out, or take --trace "
            "PAGE.html"
        )

    from experiments.devices.distributed import start
    from experiments.run import load_run
    from experiments.sampling.request import Request, prepare

    start(args.distributed)
    names = [f.name for f in dataclasses.fields(Request)]
    values = {name: v for name, v in vars(args).items() if name in names and v is not None}
    request = Request(**values, changes=tuple(args.set))  # its defaults are those of the options
    of_run = [change for change in args.set if not change.startswith("sampler")]
    run = load_run(args.workdir, args.step, of_run, args.config)
    _draw(prepare(run, request, args.workdir), args)


def _draw(prepared, args) -> None:
    """Nothing; the samples are printed, or in the file that is given, and the trace in its own."""
    from experiments.devices.distributed import first_says, is_first
    from experiments.files import write_atomically
    from experiments.progress import Progress
    from experiments.sampling.samples import sample_run
    from experiments.sampling.samples_writer import SamplesWriter
    from experiments.sampling.trace import trace_record
    from experiments.sampling.trace_page import page

    tracing, traced, lines = args.trace is not None or args.watch, [], []
    run, out = prepared.run, args.out if is_first() else None
    tokenizer = run.experiment.data.tokenizer
    told = Progress(cli.log if args.out or args.exact else None, "samples")
    with SamplesWriter(out, prepared.description, args.force) as writer, told as progress:
        (held,) = first_says([writer.start])
        if held:
            more = f"; continuing to {args.num:,}" if held < args.num else ""
            cli.log(f"{args.out}: {held:,} samples are there{more}")
        start = 0 if tracing else held  # frames are kept nowhere
        size = min(args.batch_size, max(1, args.num - start))
        for number, sampled, fixed in sample_run(
            run,
            args.num,
            prepared.description["seed"],
            prepared.known,
            size,
            prepared.constraints,
            tracing,
            start,
            progress,
        ):
            if not is_first():
                continue
            text = tokenizer.decode(sampled.x0)
            writer.write(number, text, int(sampled.calls))
            line = f"[{number}] {text}"
            if args.watch:
                lines.append(line)
            elif not args.out:
                progress.say(line)
            if tracing:
                traced.append((number, sampled, fixed))
    if tracing and is_first():
        record = trace_record(run.experiment, args.workdir, traced)
        if args.trace:
            write_atomically(args.trace, page(record))
            print(f"trace: {args.trace}, to be opened in a browser")
        if args.watch:  # last: who has seen enough ends it
            from experiments.sampling.watch import watch

            watch(record, lines)
    if args.out:
        print(f"samples: {args.out}")


if __name__ == "__main__":
    cli.run("sample")
