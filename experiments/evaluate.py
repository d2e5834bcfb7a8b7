"""Compute a run's likelihood bound, or its exact likelihood, on text.

Streams the split and writes an evaluation record, by default to records/ in the run directory. Needs a
checkpoint and the data, but not the config file. For zero-shot evaluation, --text names other text, for
instance WikiText-2 or PTB from `ddlm prepare`; it may be repeated.

Examples:
    ddlm evaluate --workdir runs/a --split test
    ddlm evaluate --workdir runs/a --split test --text data/ptb --text data/wikitext2
"""

from experiments import cli
from experiments.errors import UserError

_SPLITS = ("data.splits=", "data.split_points=")  # with --text they are of that


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("evaluate", __doc__)
    options.add_argument("--workdir", required=True, help="the run directory")
    options.add_argument(
        "--split", default="validation", help="train, validation (default) or test"
    )
    options.add_argument(
        "--text",
        action="append",
        help="other text: a folder or archive with splits, given by names or by "
        "--set data.splits=..., or a single text, used whole; may be repeated",
    )
    options.add_argument("--num-times", type=cli.positive, help="time samples per sequence")
    options.add_argument("--batch-size", type=cli.positive, help="sequences at a time")
    options.add_argument(
        "--max-sequences",
        type=cli.positive,
        help="evaluate at most this many sequences, evenly spaced in the split (default: all)",
    )
    options.add_argument(
        "--seed", type=cli.natural, default=0, help="seed of times and noise (default 0)"
    )
    options.add_argument("--step", type=cli.natural, help="which checkpoint (default: the newest)")
    options.add_argument(
        "--raw", action="store_true", help="use the parameters of the last step, not the EMA"
    )
    options.add_argument("--config", help="the file that defines your own process")
    options.add_argument("--out", type=cli.output, help="where to write the record")
    cli.add_set(options)
    cli.add_distributed(options)
    return options


def main(arguments: list[str]) -> dict:
    """The record of the evaluation, the first of those where several were asked for."""
    args = command_line().parse_args(arguments)

    from dataclasses import replace
    from pathlib import Path

    from experiments.devices.distributed import is_first, start
    from experiments.evaluation.bound import evaluate_run, of_other_text
    from experiments.evaluation.record_files import record_path, write_record
    from experiments.overrides import override
    from experiments.published.source import published_line
    from experiments.run import load_run

    start(args.distributed)
    overrides = list(args.set)
    if any(change.startswith("evaluation.max_sequences=") for change in overrides):
        raise UserError(
            "--set evaluation.max_sequences applies to evaluations during training; use "
            "--max-sequences"
        )
    if args.num_times:
        overrides.append(f"evaluation.num_times={args.num_times}")
    # What makes another number has a record of its own.
    apart = [
        *overrides,
        *([f"max_sequences={args.max_sequences}"] if args.max_sequences else []),
        *([f"seed={args.seed}"] if args.seed else []),
        *(["raw"] if args.raw else []),
    ]
    if args.batch_size:
        overrides.append(f"evaluation.batch_size={args.batch_size}")
    of_text = [c for c in overrides if args.text and c.startswith(_SPLITS)]
    own = [c for c in overrides if c not in of_text]
    run = load_run(args.workdir, args.step, own, args.config, ema=not args.raw)
    if args.text and args.out:
        raise UserError(
            "--out takes the record of one text; with several --text, records go to the run's "
            "records/"
        )
    records = []
    for text in args.text or [None]:
        changes = apart if text is None else [f"data.path={text}", *apart]
        run_on_text, whole = run, False
        if text is not None:
            if not Path(text).expanduser().exists():
                raise UserError(f"--text {text} does not exist; give a file or a folder")
            cli.log(f"{text}:")
            path = [*of_other_text(text), *of_text]
            run_on_text = replace(run, experiment=override(run.experiment, path))
            whole = not Path(text).expanduser().is_dir() and not of_text
        records.append(
            evaluate_run(
                run_on_text,
                args.split,
                args.seed,
                ema=not args.raw,
                log=cli.log,
                max_sequences=args.max_sequences,
                whole=whole,
            )
        )
        out = Path(args.out or record_path(args.workdir, records[-1]["split"], run.step, changes))
        if is_first():
            print(write_record(out, records[-1]))
    if is_first() and (line := published_line(Path(args.workdir))):
        print(line)
    return records[0]


if __name__ == "__main__":
    cli.run("evaluate")
