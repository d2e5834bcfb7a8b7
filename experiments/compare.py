"""Compare: python -m experiments.compare --workdir runs/compare --config A.py --config B.py ...

Trains every config on the same budget, evaluates each over a whole split, and prints the bounds as one
sorted table, which is also written as Markdown, beside a plot. The configs may differ in process and
sampler only; --set applies to all of them. Each run is a run directory in WORKDIR, and what is finished
there is not done again.
"""

from experiments import cli


def main(arguments: list[str]) -> None:
    options = cli.parser("compare", __doc__)
    options.add_argument("--workdir", required=True, help="gets a run directory for each config")
    options.add_argument(
        "--config",
        action="append",
        required=True,
        help="a Python file that defines get_config(); give at least two",
    )
    options.add_argument("--split", default="test", help="train, validation or test (default)")
    options.add_argument("--num-times", type=cli.positive, help="time samples per sequence")
    options.add_argument("--batch-size", type=cli.positive, help="sequences at a time, evaluating")
    options.add_argument("--table", help="the Markdown file (default: WORKDIR/table.md)")
    options.add_argument("--plot", help="the image file (default: WORKDIR/plot.png)")
    cli.add_set(options)
    given = options.parse_args(arguments)

    from pathlib import Path

    from experiments.comparison import run_all, table
    from experiments.comparison_plan import budget, make_plan
    from experiments.figure import check_figure, draw
    from experiments.files import write_atomically

    workdir = Path(given.workdir)
    table_path = Path(given.table or workdir / "table.md")
    plot_path = Path(given.plot or workdir / "plot.png")
    check_figure(plot_path)
    plan = make_plan(
        workdir, given.config, given.set, given.split, given.num_times, given.batch_size
    )
    results = run_all(plan, log=_progress)
    text = f"{budget(plan)}\n\n{table(results)}\n"
    print(f"\n{text}", flush=True)
    write_atomically(table_path, text)
    write_atomically(plot_path, draw(results, budget(plan), plot_path.suffix))
    print(f"table: {table_path}\nplot: {plot_path}")


def _progress(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    cli.run("compare")
