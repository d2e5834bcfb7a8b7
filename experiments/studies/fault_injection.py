"""Kill training repeatedly, check that nothing is lost: python -m experiments.studies.fault_injection
--kills 50

Starts `experiments.train` on a tiny run in a separate process, kills it with SIGKILL, and repeats this
in the same run directory until --kills is reached: every second time during the writing of a checkpoint,
otherwise at a random moment of training. With --processes 2 it kills one of the two and then the other.
The run then finishes and is compared, bit for bit, with one that was never killed. Exits with code 1 if
a checkpoint was lost or the results differ.
"""

from experiments import cli


def main(arguments: list[str]) -> dict:
    """Counts by name of what the kills did, and whether the end is the same."""
    options = cli.parser("studies.fault_injection", __doc__)
    options.add_argument("--workdir", required=True, help="an empty or new directory for both runs")
    options.add_argument("--config", default="configs/smoke.py")
    options.add_argument("--kills", type=cli.positive, default=50)
    options.add_argument(
        "--processes",
        type=cli.positive,
        default=1,
        help="how many train together, on loopback (default 1); one of them is killed, then the others",
    )
    options.add_argument("--seed", type=cli.natural, default=0, help="of the moments (default 0)")
    cli.add_set(options)
    args = options.parse_args(arguments)

    from pathlib import Path

    from experiments.errors import Diverged
    from experiments.studies.measuring.killing import compared, kill_often

    settings = ["train.log_every=1", "train.checkpoint_every=5", "train.eval_every=100", *args.set]
    workdir = Path(args.workdir)
    counts = kill_often(
        args.config, workdir, settings, args.kills, args.seed, cli.log, args.processes
    )
    end = counts["last committed step"] + 5
    counts |= compared(args.config, workdir, settings, end, args.processes)
    print("\n".join(["| | |", "|---|---|", *(f"| {name} | {n} |" for name, n in counts.items())]))
    if (
        counts["committed checkpoints lost"]
        or not counts["end bit-identical to the uninterrupted run"]
    ):
        raise Diverged(f"something was lost by the kills; see {workdir}")
    return counts


if __name__ == "__main__":
    cli.run("studies.fault_injection")
