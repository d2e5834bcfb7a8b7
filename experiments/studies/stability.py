"""Who survives a learning rate that is too high: python -m experiments.studies.stability --config CONFIG

Trains the config at each of --rates times its learning rate, as it is and with each --setting, and
evaluates each run on the whole validation split. Says for each how many runs diverged, how often a
logged loss rose more than a tenth above the lowest before, how many steps the trainer skipped and how
often it went back to a checkpoint. All runs take the same number of steps. With --seeds 3 each is
trained with three seeds.

Without --setting: embeddings and layers that begin otherwise than "Spike No More" (arXiv 2312.16903)
asks for, queries and keys normalised or not, z-loss, gradients clipped or not, bad steps skipped: eight
or nine settings beside the config's own, so some thirty runs. After the first run it says how long the
rest takes.

Runs are in WORKDIR: an interrupted study continues with the same command. Writes table.md and plot.png
there.

Examples:
    python -m experiments.studies.stability --config configs/sotu/mdlm.py --workdir runs/stability
    python -m experiments.studies.stability --config configs/sotu/mdlm.py --workdir runs/s \\
        --rates 1 30 --setting model.qk_norm=True --seeds 3
"""

from experiments import cli

SETTINGS = (
    "model.embedding_std=0.02",
    "model.residual_scale=1",
    "model.embedding_std=0.02 model.residual_scale=1",
    "model.qk_norm=True",
    "model.qk_norm=False",
    "train.token_loss=ZLoss",
    "optimizer.clip_norm=None",
    "train.max_grad_ratio=5",
    "optimizer.clip_norm=None train.max_grad_ratio=5",
)


def main(arguments: list[str]) -> None:
    """Nothing; the runs are trained, and their table is printed."""
    options = cli.parser("studies.stability", __doc__)
    options.add_argument("--config", required=True, help="a Python file that defines get_config()")
    options.add_argument(
        "--workdir",
        default="runs/stability",
        help="the folder of the runs (default runs/stability)",
    )
    options.add_argument(
        "--rates",
        type=cli.above_zero,
        nargs="+",
        default=[1.0, 10.0, 30.0],
        metavar="FACTOR",
        help="times the config's learning rate (default 1 10 30)",
    )
    options.add_argument(
        "--setting",
        action="append",
        metavar="'PATH=VALUE ...'",
        help="overrides that are tried together; may be repeated",
    )
    options.add_argument("--seeds", type=cli.positive, default=1, help="of each run (default 1)")
    cli.add_set(options)
    args = options.parse_args(arguments)

    from pathlib import Path

    from experiments.figure import check_figure, draw_lines
    from experiments.files import write_atomically
    from experiments.studies.measuring.stability import (
        lines,
        make_cells,
        measure,
        table,
        those_that_change,
        unit,
    )
    from experiments.training.workdir import one_writer

    workdir = Path(args.workdir)
    check_figure(workdir / "plot.png")
    settings = args.setting or those_that_change(args.config, args.set, SETTINGS)
    cells, plan = make_cells(
        workdir, args.config, args.set, args.rates, ["", *settings], args.seeds
    )
    with one_writer(workdir, cli.log):
        outcomes = measure(cells, plan, cli.log)
        write_atomically(workdir / "table.md", table(outcomes) + "\n")
        image = draw_lines(
            lines(outcomes),
            ".png",
            log_x=True,
            xlabel="learning rate, times the config's",
            ylabel=unit(outcomes),
        )
        write_atomically(workdir / "plot.png", image)
    print(f"\n{table(outcomes)}\n\ntable: {workdir / 'table.md'}\nplot: {workdir / 'plot.png'}")


if __name__ == "__main__":
    cli.run("studies.stability")
