"""Draw samples of text from a trained run.

Give known text as a --prompt, which starts every sample, as --prompts, a file of JSON lines
{"prompt": "..."} with --num samples for each, or as a --template, in which each --blank
character stands for one token that the model fills in (and each --stretch character for any number of
them, of models that insert tokens). Known tokens never change. Sample number i
depends only on the seed and i, not on the batch size or the number of samples, up to rounding, which
occasionally changes a draw. If a sampler ranks positions by the model's confidence, the seed breaks
ties, even at temperature 0.

With --out, samples are written as they are drawn, one JSON object per line. After an interruption, run
the same command to continue; --num and --batch-size may change.

Examples:
    ddlm sample --workdir runs/a --num 8 --steps 64 --prompt "the state of"
    ddlm sample --workdir runs/a --prompts prompts.jsonl --num 1 --out answers.jsonl
    ddlm sample --workdir runs/a --template "we ____ the people" --trace trace.html
"""

import dataclasses

from experiments import cli
from experiments.errors import UserError
from experiments.streams import on_terminal


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("sample", __doc__)
    options.add_argument("--workdir", required=True, help="the run directory")
    options.add_argument(
        "--num",
        type=cli.positive,
        default=8,
        help="number of samples, with --prompts of each (default 8)",
    )
    options.add_argument(
        "--steps", type=cli.positive, help="steps of the sampler (default: the config's)"
    )
    options.add_argument("--length", type=cli.positive, help="tokens (default: as trained)")
    options.add_argument("--seed", type=cli.natural, help="seed of all draws (default 0)")
    options.add_argument(
        "--sampler", help='a sampler (docs/samplers.md), with settings as "NAME setting=value"'
    )
    options.add_argument(
        "--grid", help="placement of the steps: uniform, cosine, or fitted to the run"
    )
    options.add_argument("--batch-size", type=cli.positive, default=16, help="samples at a time")
    options.add_argument("--step", type=cli.natural, help="which checkpoint (default: the newest)")
    options.add_argument("--config", help="the file that defines your own process or sampler")
    options.add_argument("--out", type=cli.output, help="a .jsonl file to append the samples to")
    cli.add_force(options)
    options.add_argument(
        "--trace", type=cli.output, help="an .html file that replays the sampling in a browser"
    )
    options.add_argument("--watch", action="store_true", help="replay the sampling in the terminal")
    known = options.add_argument_group("known text")
    known.add_argument("--prompt", type=cli.text, help="text that every sample begins with")
    known.add_argument(
        "--prompts",
        metavar="FILE",
        help='prompts of any lengths, a line {"prompt": "..."} for each; sample number i is of prompt i '
        "modulo their number",
    )
    known.add_argument(
        "--template",
        type=cli.text,
        help="text with blanks, one for each token to fill in, from the first position on",
    )
    known.add_argument("--blank", type=cli.text, help="the character for a blank (default _)")
    known.add_argument(
        "--stretch",
        type=cli.text,
        metavar="CHARACTER",
        help="of FlexMDM, the character in a template for any number of tokens (default: none)",
    )
    known.add_argument(
        "--require",
        type=cli.text,
        action="append",
        metavar="TEXT",
        help="text that every sample contains, at a place the model chooses; may be repeated",
    )
    known.add_argument(
        "--regex",
        type=cli.text,
        help="a regular expression that what comes after the prompt matches, as a whole",
    )
    known.add_argument(
        "--json-schema",
        type=cli.content,
        metavar="FILE",
        help="a JSON schema that it matches, in place of --regex",
    )
    distribution = options.add_argument_group(
        "changes to the model's distribution of each token, in this order"
    )
    distribution.add_argument(
        "--ban",
        type=cli.text,
        metavar="TEXT",
        help="never draw the tokens of this text; with subwords also its single token, if it has one, "
        "after a space or within a word; prints the banned tokens",
    )
    distribution.add_argument(
        "--repetition", type=float, help="subtracted from log p for each other occurrence"
    )
    distribution.add_argument(
        "--temperature", type=float, help="divides log p; 0 takes the most likely token"
    )
    distribution.add_argument("--top-k", type=cli.positive, help="keep the k most likely tokens")
    distribution.add_argument(
        "--top-p", type=float, help="keep the most likely tokens with this total probability"
    )
    distribution.add_argument(
        "--min-p", type=float, help="drop tokens below this share of the top probability"
    )
    distribution.add_argument("--eta", type=float, help="eta sampling (arXiv 2210.15191)")
    ending = options.add_argument_group("the end of a sample")
    ending.add_argument(
        "--stop",
        type=cli.text,
        action="append",
        metavar="TOKEN",
        help="end each sample at this token, a name of the vocabulary or one character; may be repeated "
        "(default: the end of a run of pairs)",
    )
    ending.add_argument(
        "--min-tokens",
        type=cli.natural,
        help="tokens after the prompt, at least, before the sample may end (default 0)",
    )
    label = options.add_argument_group(
        "guidance: to a label of a run trained with labels or by a classifier, or to the prompt"
    )
    label.add_argument(
        "--label",
        type=cli.text,
        action="append",
        help="the label's name; of DGLM it may be repeated, for all of them together",
    )
    label.add_argument(
        "--guidance",
        type=float,
        help="strength; 1, the default, is the label's distribution; without a label, of masked models, "
        "strength of the prompt: LLaDA's cfg_scale + 1",
    )
    label.add_argument(
        "--classifier",
        metavar="RUN",
        action="append",
        help="guide with a classifier of the run's noisy text (configs/sotu/classifier.py), or of "
        "DGLM's embeddings (configs/sotu/dglm_classifier.py), one for each --label or for all",
    )
    label.add_argument(
        "--exact",
        action="store_true",
        help="evaluate the classifier for every change of one token instead of its gradient (slow)",
    )
    label.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="range of times in which guidance acts (default: 0 1)",
    )
    cli.add_set(options)
    cli.add_distributed(options)
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the samples are printed or written."""
    args = command_line().parse_args(arguments)
    if args.watch and not on_terminal():
        raise UserError(
            "--watch needs a terminal, which standard output is not; leave it out, or use --trace "
            "PAGE.html"
        )

    from experiments.data.pairs import read_prompts
    from experiments.devices.distributed import start
    from experiments.run import load_run
    from experiments.sampling.request import Request, prepare

    start(args.distributed)
    names = [f.name for f in dataclasses.fields(Request)]
    values = {name: v for name, v in vars(args).items() if name in names and v is not None}
    if args.prompts is not None:
        values["prompts"] = read_prompts(args.prompts, "--prompts")
    request = Request(**values, changes=tuple(args.set))  # its defaults are those of the options
    of_run = [change for change in args.set if not change.startswith("sampler")]
    run = load_run(args.workdir, args.step, of_run, args.config)
    _draw(prepare(run, request, args.workdir), request.prompts, args)


def _draw(prepared, prompts, args) -> None:
    """Nothing; the samples are printed, or in the file that is given, and the trace in its own."""
    import numpy as np

    from experiments.devices.distributed import first_says, is_first
    from experiments.files import write_atomically
    from experiments.progress import Progress
    from experiments.sampling.samples import sample_run
    from experiments.sampling.samples_writer import SamplesWriter
    from experiments.sampling.trace import trace_record
    from experiments.sampling.trace_page import page

    tracing, traced, lines = args.trace is not None or args.watch, [], []
    run, out = prepared.run, args.out if is_first() else None
    num = args.num * max(1, len(prompts))
    told = Progress(cli.log if args.out or args.exact else None, "samples")
    with SamplesWriter(out, prepared.description, args.force) as writer, told as progress:
        (held,) = first_says([writer.start])
        if held:
            more = f"; continuing to {num:,}" if held < num else ""
            cli.log(f"{args.out}: {held:,} samples exist{more}")
        start = 0 if tracing else held  # frames are kept nowhere
        size = min(args.batch_size, max(1, num - start))
        for number, sampled, fixed in sample_run(
            run,
            num,
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
            text, more = _told(prepared, prompts, number, np.asarray(sampled.x0), fixed)
            writer.write(number, text, int(sampled.calls), **more)
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
            print(f"trace: {args.trace} (open it in a browser)")
        if args.watch:  # last: who has seen enough ends it
            from experiments.sampling.watch import watch

            watch(record, lines)
    if args.out:
        print(f"samples: {args.out}")


def _told(prepared, prompts, number: int, x0, known) -> tuple[str, dict]:
    """(text, what else a line says) of sample `number`."""
    from experiments.sampling.known import answered, written
    from experiments.sampling.stops import end_of

    data, stop, more = prepared.run.experiment.data, prepared.constraints.stop, {}
    if prompts:
        more["given"] = prompts[number % len(prompts)]
    if prompts or data.rows == "pair":
        more["answer"] = data.tokenizer.decode(answered(data, x0, known, stop))
    if stop:
        more["ended"] = end_of(x0, known, stop) is not None
    return data.tokenizer.decode(written(data, x0, known, stop)), more


if __name__ == "__main__":
    cli.run("sample")
