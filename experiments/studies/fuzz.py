"""Fuzzing: python -m experiments.studies.fuzz [--cases 10000] [--seed 0] [--only NAME]

Gives damaged and hostile input to every reader of files and settings, which must read it or reject it in
one line: stored configs, overrides, records, samples, text and archives, prepared tokens, tables,
tokenizers, published tensors, compressed text and checkpoints. Prints how many cases were accepted and
rejected, and the shortest case for each failure: any other exception, a hang, too much memory, code that
was executed or unpickled, a file written outside the folder (fuzzing/engine.py). A --config file is
Python code that is meant to run, so it is not tested.
"""

from experiments import cli

_TOTAL = 10_000  # cases that the readers' shares add up to


def main(arguments: list[str]) -> None:
    """Nothing; every reader was given its cases, and failures are printed."""
    options = cli.parser("studies.fuzz", __doc__)
    options.add_argument(
        "--cases",
        type=cli.positive,
        default=_TOTAL,
        help="number of cases in total (default 10000)",
    )
    options.add_argument(
        "--seed", type=cli.natural, default=0, help="seed of the cases (default 0)"
    )
    options.add_argument("--only", help="only readers whose name contains this")
    args = options.parse_args(arguments)

    import sys
    import tempfile
    import time
    from importlib.util import find_spec
    from pathlib import Path

    from experiments.errors import UserError

    if find_spec("hypothesis") is None:
        raise UserError('hypothesis is not installed; in the repository: pip install -e ".[test]"')

    from experiments.comparison.record_table import markdown
    from experiments.studies.fuzzing.engine import run
    from experiments.studies.fuzzing.readers import make_readers

    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ddlm-fuzz-") as temporary:
        folder = Path(temporary).resolve()
        chosen = [r for r in make_readers(folder) if (args.only or "") in r.name]
        if not chosen:
            raise UserError(f"--only {args.only}: no reader has that in its name")
        total, outcomes = sum(reader.share for reader in chosen), {}
        for reader in chosen:
            count = max(1, round(args.cases * reader.share / total))
            outcome = outcomes[reader.name] = run(reader, count, args.seed, folder / "case")
            print(
                f"{reader.name}: {outcome.cases:,} cases, {outcome.failed:,} failures", flush=True
            )
            for what, (times, case) in outcome.failures.items():
                print(f"    {times} x {what}\n        {case[:300]}", flush=True)
    rows = [[name, o.cases, o.accepted, o.rejected, o.failed] for name, o in outcomes.items()]
    rows.append(["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])])
    head = ["reader", "cases", "accepted", "rejected", "failures"]
    print(
        "\n" + markdown([head, *([row[0], *map("{:,}".format, row[1:])] for row in rows)], head[:1])
    )
    print(f"\n{time.perf_counter() - start:.0f} s, seed {args.seed}")
    if rows[-1][-1]:
        sys.exit(1)


if __name__ == "__main__":
    cli.run("studies.fuzz")
