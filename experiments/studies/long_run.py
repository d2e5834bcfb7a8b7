"""Memory, time and compilations of a long run: python -m experiments.studies.long_run --workdir DIR

Trains --config for --steps steps in this process, with evaluations and checkpoints, and prints a table
with ten rows: step, resident memory, milliseconds per step, compilations so far.
"""

from experiments import cli

ROWS = 10


def main(arguments: list[str]) -> list[dict]:
    """A row for each logging interval: its step, memory, time and compilations."""
    options = cli.parser("studies.long_run", __doc__)
    options.add_argument("--workdir", required=True, help="the run directory, new")
    options.add_argument("--config", default="configs/smoke.py")
    options.add_argument("--steps", type=cli.positive, default=20_000)
    cli.add_set(options)
    args = options.parse_args(arguments)

    import os
    import time
    from pathlib import Path

    from jax import monitoring

    from experiments.overrides import load
    from experiments.training.trainer import train

    compilations, rows = [], []
    every = max(1, args.steps // ROWS)
    settings = [
        f"train.num_steps={args.steps}",
        f"train.log_every={every}",
        f"train.eval_every={every}",
        f"train.checkpoint_every={max(1, every // 4)}",
    ]
    experiment = load(args.config, [*settings, *args.set])

    def compiled(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(duration_secs)

    def resident():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def measured(line):
        cli.log(line)
        if line.startswith("step ") and "/" in line.split()[1]:
            now, step = time.perf_counter(), int(line.split()[1].partition("/")[0])
            before, then = (rows[-1]["step"], rows[-1]["at"]) if rows else (0, start)
            row = {"step": step, "at": now, "mib": resident(), "compilations": len(compilations)}
            rows.append(row | {"milliseconds": 1000 * (now - then) / (step - before)})

    monitoring.register_event_duration_secs_listener(compiled)
    start = time.perf_counter()
    try:
        train(experiment, Path(args.workdir), log=measured)
    finally:
        monitoring.unregister_event_duration_listener(compiled)
    print("| up to step | memory, MiB | ms a step, evaluation and saves included | compilations |")
    print("|---:|---:|---:|---:|")
    for row in rows:
        print("| {step:,} | {mib:.0f} | {milliseconds:.2f} | {compilations} |".format(**row))
    return rows


if __name__ == "__main__":
    cli.run("studies.long_run")
