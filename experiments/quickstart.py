"""Quickstart (`make quickstart`): train on the embedded corpus, evaluate on held-out addresses, sample.

It uses the same functions as the three commands. The run is saved in runs/quickstart, and an interrupted
quickstart continues when you start it again.
"""

import math
from collections.abc import Sequence

from experiments import cli

CONFIG, WORKDIR, SPLIT = "configs/sotu/quickstart.py", "runs/quickstart", "test"
ORDERS = {1: "unigram", 2: "bigram", 3: "trigram"}


def main(arguments: list[str]) -> None:
    """Nothing; a small model is trained, bounded and sampled."""
    options = cli.parser("quickstart", __doc__)
    options.add_argument("--config", default=CONFIG)
    options.add_argument("--workdir", default=WORKDIR)
    cli.add_set(options)
    args = options.parse_args(arguments)

    import shlex

    from experiments import evaluate, sample, train
    from experiments.overrides import load, reading_options

    overrides = [word for item in args.set for word in ("--set", item)]
    where = ["--workdir", args.workdir]
    reading = reading_options(load(args.config, args.set), args.config, args.set)
    print("1/3  Training a masked diffusion language model\n", flush=True)
    train.main(["--config", args.config, *where, *overrides])
    print(f"\n2/3  The bound on the held-out addresses ({SPLIT} split)\n", flush=True)
    record = evaluate.main([*where, *reading, "--split", SPLIT])
    baselines = _baselines(args.workdir, reading)
    print("\n3/3  Samples\n", flush=True)
    sample.main([*where, *reading, "--num", "3"])
    sample.main([*where, *reading, "--num", "1", "--prompt", "the state of the union is "])
    name, error = f"{record['process']} ({record['kind']})", record["standard_error"]
    rows = [(name, record["value"], math.nan if error is None else error)]
    print("\nBits per character on the held-out addresses, with standard error")
    for name, value, error in rows + baselines:
        print(f"  {name:<24} {value:.3f} +- {error:.3f}")
    print(
        f"\nNext:\n"
        f"  .venv/bin/ddlm sample {shlex.join([*where, *reading])} "
        "--template 'we ____ the people of ____'\n"
        f"  .venv/bin/ddlm train --config {args.config} --workdir runs/longer "
        f"--set train.num_steps=20000 --set optimizer.schedule.decay_steps=20000\n"
        f"  .venv/bin/ddlm train --config {args.config} --workdir runs/own-text "
        f"--set data.path=FILE --set data.tokenizer.normalize=True"
    )


def _baselines(workdir: str, reading: Sequence[str]) -> list[tuple[str, float, float]]:
    """(name, bits per character, standard error) of n-grams, on the same split, cut the same way."""
    from experiments.data.text import prepare
    from experiments.evaluation.ngram import ngram_estimate
    from experiments.run import load_run

    run = load_run(workdir, overrides=reading[3::2], config=reading[1] if reading else None)
    data, vocab_size = run.experiment.data, run.experiment.process.num_tokens
    corpus = prepare(data)
    train, tokens = corpus.split("train", 1), corpus.split(SPLIT, 1)
    rows = []
    for order, name in ORDERS.items():
        result = ngram_estimate(train, tokens, data.length, order, vocab_size, data.tokenizer)
        error = result.to_bits_per_character(result.standard_error())
        rows.append((f"{name} (exact)", result.bits_per_character, error))
    return rows


if __name__ == "__main__":
    cli.run("quickstart")
