"""How far samplers are from the data with the exact denoiser, at real length: python -m
experiments.studies.hidden_markov

The data are texts of a hidden Markov chain (`diffusion.hidden_markov`), of which the likelihood, the
entropy and the exact p(x0 | z_t) of every process are known, so that what is measured is the sampler's
own error. Of --samples texts by each sampler: the cross-entropy E[-log p(x)] under the data, less the
entropy of the data, in nats per token (above 0: texts that the data hold for unlikely; below 0: a
sampler that prefers what is likely), and the total variation distance of pairs of tokens one and eight
apart. The row "the data" has what counting alone makes of each. Writes hidden-markov.json and .png into
--out.
"""

from experiments import cli

STEPS = (4, 16, 64, 256)


def main(arguments: list[str]) -> dict:
    """The record: of each process, sampler and number of steps its distance from the data."""
    options = cli.parser("studies.hidden_markov", __doc__)
    options.add_argument("--length", type=cli.positive, default=64)
    options.add_argument("--samples", type=cli.positive, default=1024)
    options.add_argument("--seed", type=cli.natural, default=0)
    options.add_argument("--steps", type=cli.positive, nargs="+", default=list(STEPS))
    options.add_argument("--only", help="the processes whose name contains this")
    options.add_argument("--out", default="runs/hidden-markov", help="directory")
    args = options.parse_args(arguments)

    from pathlib import Path

    from experiments.figure import check_figure, draw_lines
    from experiments.files import write_atomically
    from experiments.plain_json import dumped
    from experiments.studies.measuring.hidden_markov import measure, table

    plot = Path(args.out) / "hidden-markov.png"
    check_figure(plot)
    record = measure(args.length, args.samples, args.seed, args.steps, args.only or "", cli.log)
    write_atomically(Path(args.out) / "hidden-markov.json", dumped(record, indent=1) + "\n")
    series: dict = {}
    for row in record["rows"]:
        xs, ys = series.setdefault(f"{row['process']}, {row['sampler']}", ([], []))
        xs.append(row["calls"])
        ys.append(row["pairs_1"])
    calls = [row["calls"] for row in record["rows"]]
    series["the data"] = ([min(calls), max(calls)], [record["data"]["pairs_1"]] * 2)
    labels = {"xlabel": "calls of the network", "ylabel": "total variation of neighbours"}
    write_atomically(plot, draw_lines(series, plot.suffix, log=True, log_x=True, **labels))
    print(f"\n{table(record)}\n\nrecord and plot: {args.out}")
    return record


if __name__ == "__main__":
    cli.run("studies.hidden_markov")
