"""Speed: python -m experiments.studies.benchmark [--set model.num_layers=6 ...] [--out speed.json]

Measures side by side, since machines differ and are noisy: a large float32 matrix product, the training
step, one forward pass, and sampling with 64 and 256 steps compared with as many forward passes. Each
figure is the median of several interleaved timings. Model FLOPs count matrix products only.
"""

from experiments import cli


def main(arguments: list[str]) -> None:
    """Nothing; the speeds are printed, and written where a file is named."""
    options = cli.parser("studies.benchmark", __doc__)
    options.add_argument("--config", default="configs/benchmark.py")
    options.add_argument(
        "--rounds", type=cli.positive, default=7, help="timings per figure (default 7)"
    )
    options.add_argument(
        "--steps", default="64,256", help="sampling steps (default 64,256; 0: none)"
    )
    options.add_argument("--out", type=cli.output, help="where to write the figures as JSON")
    cli.add_set(options)
    args = options.parse_args(arguments)

    from experiments.files import write_atomically
    from experiments.overrides import load
    from experiments.plain_json import dumped
    from experiments.studies.measuring.speed import measure

    steps = [int(s) for s in args.steps.split(",") if s.strip().isdigit() and int(s)]
    figures = measure(load(args.config, args.set), args.rounds, steps, cli.log)
    if args.out:
        write_atomically(args.out, dumped(figures, indent=1) + "\n")


if __name__ == "__main__":
    cli.run("studies.benchmark")
