"""Measure how often guided samples get their label, and what it costs of fluency:

    python -m experiments.studies.guidance_accuracy --workdir RUN --classifier C --evaluator E \
        --scorer AR

For each strength (--guidance 0 1 4 16) and label, draws --num samples, as `ddlm sample` does: guided by
classifier C, of noisy text or, of DGLM, of embeddings, or without --classifier by the labels that the
run was trained with. Reports the share that a separately trained classifier E assigns to the label, with
its standard error, next to the samples' character entropy, in bits, and bits per character under an
autoregressive run, with --scorer. The first line is validation text. --exact and --guidance-interval
work as in `ddlm sample`, --sampler and --steps too.
"""

from experiments import cli


def command_line() -> cli.Parser:
    """The options of the program."""
    options = cli.parser("studies.guidance_accuracy", __doc__)
    options.add_argument("--workdir", required=True, help="the run that is guided")
    options.add_argument("--classifier", help="the run of the classifier that guides")
    options.add_argument("--evaluator", required=True, help="the run of the other classifier")
    options.add_argument("--scorer", help="the autoregressive run that measures fluency")
    options.add_argument("--guidance", type=float, nargs="+", default=[0.0, 1.0, 4.0, 16.0])
    options.add_argument("--guidance-interval", type=float, nargs=2, default=[0.0, 1.0])
    options.add_argument("--exact", action="store_true")
    options.add_argument("--sampler", help="in place of the run's")
    options.add_argument("--steps", type=cli.positive, help="of the sampler")
    options.add_argument("--num", type=cli.positive, default=64, help="samples of each label")
    options.add_argument("--seed", type=cli.natural, default=0)
    options.add_argument("--out", type=cli.output, help="where to write the figures as JSON")
    cli.add_set(options)
    return options


def main(arguments: list[str]) -> dict:
    """{"rows": how often the judge finds the label at each strength}."""
    args = command_line().parse_args(arguments)

    import jax
    import jax.numpy as jnp
    import numpy as np

    from experiments.data.text import prepare as prepare_text
    from experiments.errors import UserError
    from experiments.evaluation.bound import sequences
    from experiments.files import write_atomically
    from experiments.plain_json import dumped
    from experiments.run import load_run
    from experiments.sample_metrics.scorers import load_scorer
    from experiments.sampling.request import Request, prepare
    from experiments.sampling.samples import sample_run
    from models.classifier import Classifier

    run, evaluator = load_run(args.workdir, overrides=args.set), load_run(args.evaluator)
    scorer = load_scorer(args.scorer) if args.scorer else None
    data = evaluator.experiment.data
    names = data.label_names
    model = evaluator.experiment.model
    if not isinstance(model, Classifier):
        raise UserError(f"--evaluator {args.evaluator} holds no classifier; train one")

    @jax.jit
    def distributions(params, x):
        return model.log_p_labels(params, x, jnp.zeros((len(x), 1)))

    def right(x, label):
        return np.asarray(distributions(evaluator.params, jnp.asarray(x)).argmax(1)) == label

    def row(name, x, hits):
        texts = [data.tokenizer.decode(tokens) for tokens in x]
        return _row(name, x, hits, scorer.score(texts) if scorer else None)

    tokens, labels = sequences(
        evaluator.experiment, prepare_text(data), "validation", args.num * len(names)
    )
    assert isinstance(tokens, np.ndarray) and labels is not None  # of what a classifier learns from
    text = tokens[: len(tokens) // data.length * data.length].reshape(-1, data.length)
    rows = [row("validation text", text, right(text, labels[: len(text)]))]
    for strength in args.guidance:
        x, hits = [], []
        for number, name in enumerate(names):
            request = Request(
                sampler=args.sampler,
                steps=args.steps,
                label=name,
                guidance=strength,
                guidance_interval=args.guidance_interval,
                classifier=args.classifier,
                exact=args.exact,
                seed=args.seed,
            )
            ready = prepare(run, request, args.workdir)
            drawn = sample_run(ready.run, args.num, args.seed, ready.known, 64, ready.constraints)
            x.append(np.stack([sampled.x0 for _, sampled, _ in drawn]))
            hits.append(right(x[-1], number))
        rows.append(row(f"guidance {strength:g}", np.concatenate(x), np.concatenate(hits)))
    if args.out:
        write_atomically(args.out, dumped({"settings": vars(args), "rows": rows}, indent=1) + "\n")
    return {"rows": rows}


def _row(name, tokens, hits, scored) -> dict:
    """The figures of tokens (N, L), of which hits (N,) have their label, and of their score, or None;
    logged too."""
    import numpy as np

    share = np.bincount(tokens.reshape(-1)) / tokens.size
    entropy = float(-sum(p * np.log2(p) for p in share if p > 0))
    error = float(hits.std() / np.sqrt(len(hits)))
    line = (
        f"{name:16} label found in {hits.mean():.3f} +- {error:.3f} of {len(hits)}, entropy "
        f"{entropy:.3f} bits a character"
    )
    row = {"of": name, "accuracy": float(hits.mean()), "error": error, "entropy_bits": entropy}
    if scored is not None:
        of_bits = scored.to_bits(scored.standard_error())
        row |= {"scorer_bits": scored.bits, "scorer_error": of_bits}
        line += f", {scored.bits:.3f} +- {of_bits:.3f} under the scorer"
    cli.log(line)
    return row


if __name__ == "__main__":
    cli.run("studies.guidance_accuracy")
