"""Measure the noise of bound estimators: python -m experiments.studies.estimator_noise --workdir RUN

Evaluates the same sequences of a split --repeats times with each estimator and each of --num-times
network calls per sequence, with new times and noise, and reports the mean over all repetitions and the
standard deviation between them. This is the noise of the estimate alone, at equal cost; unlike a
standard error, it does not include the spread between sequences. Estimators that do not support the
process are left out.
"""

from experiments import cli
from experiments.errors import UserError

ESTIMATORS = ("times", "low_discrepancy", "quadrature", "any_order")


def main(arguments: list[str]) -> dict:
    """The record: what each estimator gives, and its noise."""
    options = cli.parser("studies.estimator_noise", __doc__)
    options.add_argument("--workdir", required=True, help="the run directory")
    options.add_argument("--split", default="validation")
    options.add_argument("--num-times", type=cli.positive, nargs="+", default=[1, 2, 4, 8])
    options.add_argument("--repeats", type=cli.positive, default=16)
    options.add_argument("--max-sequences", type=cli.positive, default=128)
    options.add_argument("--out", type=cli.output, help="where to write the figures as JSON")
    cli.add_set(options)
    args = options.parse_args(arguments)

    import math
    from dataclasses import replace

    import jax.numpy as jnp
    import numpy as np

    from experiments.data.pipeline import evaluation_batches
    from experiments.data.text import prepare
    from experiments.evaluation.bound import sequences
    from experiments.evaluation.estimators import check_bound, make_bound
    from experiments.files import write_atomically
    from experiments.plain_json import dumped
    from experiments.run import load_run
    from experiments.training.train_step import only_counted

    run = load_run(args.workdir, overrides=args.set)
    check_bound(run.experiment)
    data, size = run.experiment.data, run.experiment.evaluation.batch_size
    text, labels = sequences(run.experiment, prepare(data), args.split, args.max_sequences)
    rows = []
    for name in ESTIMATORS:
        evaluation = replace(run.experiment.evaluation, estimator=name)
        experiment = replace(run.experiment, evaluation=evaluation)
        try:
            check_bound(experiment)
        except UserError:
            continue
        for times in args.num_times:
            bound, values = make_bound(experiment, times, 0, run.mesh), []
            for repeat in range(args.repeats):
                nats, tokens, first = 0.0, 0, repeat * 1_000_003
                for x, known, count in evaluation_batches(text, data.length, size, labels):
                    terms = bound(run.params, x, first, None, known).terms
                    nats += sum(
                        np.asarray(t, np.float64)[:count].mean(1).sum() for t in terms.values()
                    )
                    tokens += np.asarray(only_counted(jnp.ones(x.shape), known))[:count].sum()
                    first += count
                values.append(nats / tokens)
            noise, mean = float(np.std(values, ddof=1)), float(np.mean(values))
            row = {"estimator": name, "num_times": times, "nats_per_token": mean, "noise": noise}
            rows.append(row | {"error_of_mean": noise / math.sqrt(args.repeats)})
            cli.log(
                f"{name:16} {times:3} calls: {mean:.4f} +- {rows[-1]['error_of_mean']:.4f} nats a "
                f"token, noise of one evaluation {noise:.4f}"
            )
    record = {"settings": vars(args), "rows": rows}
    if args.out:
        write_atomically(args.out, dumped(record, indent=1) + "\n")
    return record


if __name__ == "__main__":
    cli.run("studies.estimator_noise")
