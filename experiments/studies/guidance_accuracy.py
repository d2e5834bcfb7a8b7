"""Measure how often guided samples get their label:

    python -m experiments.studies.guidance_accuracy --workdir RUN --classifier C --evaluator E

For each strength (--guidance 0 1 4 16) and label, draws --num samples guided by classifier C, as
`experiments.sample` does. Reports the share that a separately trained classifier E assigns to the label,
with its standard error, next to the samples' character entropy, in bits, and E's accuracy on validation
text. --exact and --guidance-interval work as in `experiments.sample`.
"""

from experiments import cli


def main(arguments: list[str]) -> dict:
    """{"rows": how often the judge finds the label at each strength}."""
    options = cli.parser("studies.guidance_accuracy", __doc__)
    options.add_argument("--workdir", required=True, help="the run that is guided")
    options.add_argument(
        "--classifier", required=True, help="the run of the classifier that guides"
    )
    options.add_argument("--evaluator", required=True, help="the run of the other classifier")
    options.add_argument("--guidance", type=float, nargs="+", default=[0.0, 1.0, 4.0, 16.0])
    options.add_argument("--guidance-interval", type=float, nargs=2, default=[0.0, 1.0])
    options.add_argument("--exact", action="store_true")
    options.add_argument("--num", type=cli.positive, default=64, help="samples of each label")
    options.add_argument("--seed", type=cli.natural, default=0)
    options.add_argument("--out", type=cli.output, help="where to write the figures as JSON")
    cli.add_set(options)
    args = options.parse_args(arguments)

    import jax
    import jax.numpy as jnp
    import numpy as np

    from experiments.data.text import prepare
    from experiments.errors import UserError
    from experiments.evaluation.bound import sequences
    from experiments.files import write_atomically
    from experiments.plain_json import dumped
    from experiments.run import load_run
    from experiments.sampling.constraints import make_constraints
    from experiments.sampling.samples import sample_run
    from models.classifier import Classifier

    run = load_run(args.workdir, overrides=args.set)
    classifier, evaluator = load_run(args.classifier), load_run(args.evaluator)
    data = evaluator.experiment.data
    names = data.label_names
    known = np.full(run.experiment.data.length, -1, np.int32)
    model = evaluator.experiment.model
    if not isinstance(model, Classifier):
        raise UserError(f"--evaluator {args.evaluator} holds no classifier; train one")

    @jax.jit
    def distributions(params, x):
        return model.log_p_labels(params, x, jnp.zeros((len(x), 1)))

    def right(x, label):
        return np.asarray(distributions(evaluator.params, jnp.asarray(x)).argmax(1)) == label

    tokens, labels = sequences(
        evaluator.experiment, prepare(data), "validation", args.num * len(names)
    )
    assert isinstance(tokens, np.ndarray) and labels is not None  # of what a classifier learns from
    text = tokens[: len(tokens) // data.length * data.length].reshape(-1, data.length)
    rows = [_row("validation text", text, right(text, labels[: len(text)]))]
    for strength in args.guidance:
        x, hits = [], []
        for number, name in enumerate(names):
            constraints = make_constraints(
                run.experiment, known, (), name, strength, args.guidance_interval, classifier,
                args.exact,
            )  # fmt: skip
            drawn = [
                s.x0 for _, s, _ in sample_run(run, args.num, args.seed, known, 64, constraints)
            ]
            x.append(np.stack(drawn))
            hits.append(right(x[-1], number))
        rows.append(_row(f"guidance {strength:g}", np.concatenate(x), np.concatenate(hits)))
    if args.out:
        write_atomically(args.out, dumped({"settings": vars(args), "rows": rows}, indent=1) + "\n")
    return {"rows": rows}


def _row(name, tokens, hits) -> dict:
    """The figures of tokens (N, L), of which hits (N,) have their label; logged too."""
    import numpy as np

    share = np.bincount(tokens.reshape(-1)) / tokens.size
    entropy = float(-sum(p * np.log2(p) for p in share if p > 0))
    error = float(hits.std() / np.sqrt(len(hits)))
    cli.log(
        f"{name:16} label found in {hits.mean():.3f} +- {error:.3f} of {len(hits)}, entropy "
        f"{entropy:.3f} bits a character"
    )
    return {"of": name, "accuracy": float(hits.mean()), "error": error, "entropy_bits": entropy}


if __name__ == "__main__":
    cli.run("studies.guidance_accuracy")
