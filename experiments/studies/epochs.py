"""Who overfits when a text is seen many times: python -m experiments.studies.epochs --config CONFIG ...

Trains each config (repeat --config) on the first --tokens tokens of its training text, until all of them
were seen as often as the last of --epochs says, and at each of --epochs evaluates it on that text and on
the validation split. The configs may differ in process and sampler alone. Says for each at which of
--epochs its held-out value is lowest, and by how much it has risen at the end. With --seeds 3 each is
trained with three seeds.

Give a learning rate that does not depend on the length of the training, as below: then each point is
what a training that ended there would give. --max-sequences takes that many sequences, spread over each
split.

Runs are in WORKDIR: an interrupted study continues with the same command, and goes on to larger
--epochs. Writes table.md and plot.png there.

Example:
    python -m experiments.studies.epochs --config configs/sotu/mdlm.py \\
        --config configs/sotu/autoregressive.py --workdir runs/epochs --tokens 100000 \\
        --epochs 1 3 10 30 --set optimizer=AdamW --set optimizer.schedule=WarmupConstant \\
        --set optimizer.schedule.peak_lr=2e-3 --set optimizer.schedule.warmup_steps=50
"""

from experiments import cli


def main(arguments: list[str]) -> None:
    """Nothing; the runs are trained, and their table is printed."""
    options = cli.parser("studies.epochs", __doc__)
    options.add_argument(
        "--config", required=True, action="append", help="a config file; repeat for each method"
    )
    options.add_argument(
        "--workdir", default="runs/epochs", help="the folder of the runs (default runs/epochs)"
    )
    options.add_argument(
        "--tokens",
        type=cli.positive,
        default=1_000_000,
        help="of the training text (default 1000000)",
    )
    options.add_argument(
        "--epochs",
        type=cli.above_zero,
        nargs="+",
        default=[1.0, 3.0, 10.0, 30.0, 100.0, 300.0],
        metavar="N",
        help="how often all tokens were seen at each evaluation (default 1 3 10 30 100 300)",
    )
    options.add_argument("--seeds", type=cli.positive, default=1, help="of each config (default 1)")
    options.add_argument(
        "--max-sequences", type=cli.positive, default=512, help="of each split (default 512)"
    )
    cli.add_set(options)
    args = options.parse_args(arguments)

    from pathlib import Path

    from experiments.figure import check_figure, draw_lines
    from experiments.files import write_atomically
    from experiments.studies.measuring.epochs import (
        answers,
        lines,
        make_study,
        measure,
        table,
        unit,
    )
    from experiments.training.workdir import one_writer

    workdir = Path(args.workdir)
    check_figure(workdir / "plot.png")
    study = make_study(workdir, args.config, args.set, args.tokens, args.epochs, args.seeds)
    with one_writer(workdir, cli.log):
        points = measure(study, args.max_sequences, cli.log)
        text = f"{table(points)}\n\n{answers(points)}"
        write_atomically(workdir / "table.md", text + "\n")
        image = draw_lines(lines(points), ".png", log_x=True, xlabel="epochs", ylabel=unit(points))
        write_atomically(workdir / "plot.png", image)
    print(f"\n{text}\n\ntable: {workdir / 'table.md'}\nplot: {workdir / 'plot.png'}")


if __name__ == "__main__":
    cli.run("studies.epochs")
