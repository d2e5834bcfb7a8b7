"""Measure the error of samplers with an exact denoiser: python -m
experiments.studies.sampler_error

The data are sequences of --length tokens out of 3, with a random distribution (--seed), so the exact
p(x0 | z_t) of masked diffusion is a table over all states and any error comes from the sampler itself.
The error is the total variation distance between the data distribution and the sampler's, estimated from
--samples. A finite number of samples alone gives a positive distance, printed as the noise floor. Writes
sampler-error.json and .png into --out.

If a sampler has preferences (for tokens the model is sure of, say), they appear as a distance that more
steps do not remove; on text, with a learned network, the same preference may well look better.
"""

from experiments import cli

STEPS = (1, 2, 4, 8, 16, 32, 64)


def main(arguments: list[str]) -> dict:
    """The record: each sampler's distance from the distribution of the data."""
    options = cli.parser("studies.sampler_error", __doc__)
    options.add_argument("--length", type=cli.positive, default=5)
    options.add_argument("--samples", type=cli.positive, default=200_000)
    options.add_argument("--seed", type=cli.natural, default=0)
    options.add_argument("--steps", type=cli.positive, nargs="+", default=list(STEPS))
    options.add_argument("--out", default="runs/sampler-error", help="directory")
    args = options.parse_args(arguments)

    from pathlib import Path

    from experiments.figure import check_figure, draw_lines
    from experiments.files import write_atomically
    from experiments.plain_json import dumped
    from experiments.studies.measuring.sampler_error_toy import measure, table

    plot = Path(args.out) / "sampler-error.png"
    check_figure(plot)
    record = measure(args.length, args.samples, args.seed, args.steps, cli.log)
    write_atomically(Path(args.out) / "sampler-error.json", dumped(record, indent=1) + "\n")
    series = {
        name: ([row["calls"] for row in rows], [row["distance"] for row in rows])
        for name, rows in record["samplers"].items()
    }
    floor = record["noise_floor"]
    calls = [x for xs, _ in series.values() for x in xs]
    series["noise of counting"] = ([min(calls), max(calls)], [floor, floor])
    labels = {"xlabel": "calls of the network", "ylabel": "total variation from the data"}
    image = draw_lines(series, plot.suffix, log=True, log_x=True, **labels)
    write_atomically(plot, image)
    print(f"\n{table(record)}\n\nrecord and plot: {args.out}")
    return record


if __name__ == "__main__":
    cli.run("studies.sampler_error")
