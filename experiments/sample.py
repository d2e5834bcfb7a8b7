"""Sample: python -m experiments.sample --workdir runs/a --num 8 --steps 64 [--prompt "the state of"]

A prompt is given as the first characters, or as a --template in which the --blank character stands for
what the model is to fill in; given characters never change. Sample number i depends on the seed and i
alone, not on the batch size or on how many are drawn.
"""

from experiments import cli


def main(arguments: list[str]) -> None:
    options = cli.parser("sample", __doc__)
    options.add_argument("--workdir", required=True, help="the run directory")
    options.add_argument("--num", type=cli.positive, default=8, help="how many samples (default 8)")
    options.add_argument(
        "--steps", type=cli.positive, help="steps of the sampler (default: the config's)"
    )
    options.add_argument("--length", type=cli.positive, help="tokens (default: as trained)")
    options.add_argument("--seed", type=cli.natural, default=0)
    options.add_argument("--prompt", default="", help="text that every sample begins with")
    options.add_argument("--template", help="text with blanks, from the first position on")
    options.add_argument("--blank", default="_", help="the character for a blank (default _)")
    options.add_argument("--batch-size", type=cli.positive, default=16, help="samples at a time")
    options.add_argument("--step", type=cli.natural, help="which checkpoint (default: the newest)")
    options.add_argument(
        "--config", help="the file that defines your own process, if it is your own"
    )
    options.add_argument("--out", help="a .jsonl file to write the samples to")
    cli.add_set(options)
    given = options.parse_args(arguments)

    import json
    from dataclasses import replace

    from experiments.files import write_atomically
    from experiments.runs import load_run
    from experiments.sampling import check_given, given_tokens, sample_run, with_steps

    overrides = list(given.set)
    if given.length:
        overrides.append(f"data.length={given.length}")
    run = load_run(given.workdir, given.step, overrides, given.config)
    if given.steps:
        run = replace(run, experiment=with_steps(run.experiment, given.steps))
    data = run.experiment.data
    known = given_tokens(data.tokenizer, data.length, given.prompt, given.template, given.blank)
    check_given(run.experiment, known)
    lines = []
    batch_size = min(given.batch_size, given.num)
    for number, sampled in sample_run(run, given.num, given.seed, known, batch_size):
        text = data.tokenizer.decode(sampled.x0)
        print(f"[{number}] {text}", flush=True)
        line = {
            "number": number,
            "text": text,
            "seed": given.seed,
            "network_calls": int(sampled.calls),
        }
        lines.append(json.dumps(line | {"checkpoint_step": run.step}, ensure_ascii=False))
    if given.out:
        write_atomically(given.out, "".join(line + "\n" for line in lines))
        print(f"samples: {given.out}")


if __name__ == "__main__":
    cli.run("sample")
