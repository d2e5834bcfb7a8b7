"""Compare methods on one budget, or existing evaluation records.

With --config, trains every config on the same budget, evaluates each on a whole split, and prints a
sorted table of the bounds. The table is also written as Markdown, with a plot. The configs may differ
only in process and sampler; --set applies to all of them. Each config gets a run directory in WORKDIR,
and finished runs are not repeated. With --seeds 3 each is trained with three seeds (its train.seed and
the next two), and the table has the mean, the spread over seeds and an error that joins both; methods
are in order where they differ by two such errors.

With RECORDs, compares files that `evaluate` wrote. Records of the same protocol (unit, text, tokenizer,
context, labels) form one sorted table, in which differences below two joint standard errors count as
ties. Runs that differ in train.seed alone share a row, with mean, spread and joint error. Records of
different protocols are not ranked; their differences are listed. Published values appear next to
records of the published protocol. Records with numbers that are not finite or that contradict each
other are left out, with the reason.

Examples:
    ddlm compare --workdir runs/compare --config configs/sotu/mdlm.py --config configs/sotu/md4.py
    ddlm compare --workdir runs/c --config configs/sotu/mdlm.py --config configs/sotu/md4.py --seeds 3
    ddlm compare runs/*/records/test-*.json
"""

from experiments import cli


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("compare", __doc__)
    options.add_argument("records", nargs="*", metavar="RECORD", help="an evaluation record")
    options.add_argument("--workdir", help="the folder for a run directory per config")
    options.add_argument(
        "--config",
        action="append",
        help="a Python file that defines get_config(); give at least two",
    )
    options.add_argument(
        "--seeds", type=cli.positive, help="how many seeds each config is trained with (default 1)"
    )
    options.add_argument("--split", help="train, validation or test (default)")
    options.add_argument("--num-times", type=cli.positive, help="time samples per sequence")
    options.add_argument("--batch-size", type=cli.positive, help="sequences per evaluation batch")
    options.add_argument(
        "--table",
        type=cli.output,
        help="the Markdown file (default: table.md in WORKDIR, or here for records)",
    )
    options.add_argument(
        "--plot",
        type=cli.output,
        help="the image file (default: plot.png in WORKDIR, or here for records)",
    )
    cli.add_set(options)
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the methods are trained and judged on one budget, or the records laid side by side."""
    options = command_line()
    args = options.parse_intermixed_args(arguments)
    training = ("config", "workdir", "seeds", "split", "num_times", "batch_size", "set")
    named = ["--" + name.replace("_", "-") for name in training if getattr(args, name)]
    if args.records and named:
        options.error(
            f"{named[0]} is for training, and records are compared as they are; give one or the other"
        )
    if args.records:
        _compare_records(args)
        return
    missing = [f"--{name}" for name in ("workdir", "config") if not getattr(args, name)]
    if missing:
        options.error(
            f"the following arguments are required: {', '.join(missing)} (or RECORD files alone)"
        )
    _train_and_compare(args)


def _train_and_compare(args) -> None:
    from pathlib import Path

    from experiments.comparison.methods import run_all, table
    from experiments.comparison.plan import budget, make_plan
    from experiments.figure import check_figure, draw
    from experiments.files import write_atomically
    from experiments.training.workdir import one_writer

    workdir = Path(args.workdir)
    table_path = Path(args.table or workdir / "table.md")
    plot_path = Path(args.plot or workdir / "plot.png")
    check_figure(plot_path)
    plan = make_plan(
        workdir,
        args.config,
        args.set,
        args.split or "test",
        args.num_times,
        args.batch_size,
        args.seeds or 1,
    )
    with one_writer(workdir, cli.log):
        results = run_all(plan, log=cli.log)
        text = f"{budget(plan)}\n\n{table(results)}\n"
        write_atomically(table_path, text)
        write_atomically(plot_path, draw(results, budget(plan), plot_path.suffix))
    print(f"\n{text}\ntable: {table_path}\nplot: {plot_path}")


def _compare_records(args) -> None:
    from pathlib import Path

    from experiments.comparison.published import match
    from experiments.comparison.record_figure import draw_records
    from experiments.comparison.record_groups import group, read_entries
    from experiments.comparison.record_table import report
    from experiments.figure import check_figure
    from experiments.files import write_atomically

    table_path, plot_path = Path(args.table or "table.md"), Path(args.plot or "plot.png")
    check_figure(plot_path)
    paths = list(dict.fromkeys(args.records))  # a file named twice is one record
    entries, left_out = read_entries(paths)
    groups = group(entries)
    matches = [match(g.entries) for g in groups]
    text = report(groups, matches, left_out) + "\n"
    write_atomically(table_path, text)
    write_atomically(plot_path, draw_records(groups, matches, plot_path.suffix))
    print(f"{text}\ntable: {table_path}\nplot: {plot_path}")


if __name__ == "__main__":
    cli.run("compare")
