"""Measure the cost of samplers outside the network: python -m experiments.studies.sampler_overhead

For each vocabulary size, times side by side one network call of --config (with random parameters) and
one step of each MDLM sampler with a network that costs almost nothing, since it returns the same logits,
up to an addition, at every call. Their ratio is the overhead of a step. Medians over --rounds.
"""

from experiments import cli

STEPS = 16


def main(arguments: list[str]) -> dict:
    """Figures by name: what each sampler costs outside of the network."""
    options = cli.parser("studies.sampler_overhead", __doc__)
    options.add_argument("--config", default="configs/benchmark.py")
    options.add_argument("--vocab", type=cli.positive, nargs="+", default=[27, 30522])
    options.add_argument("--batch-size", type=cli.positive, default=4)
    options.add_argument("--rounds", type=cli.positive, default=5)
    options.add_argument("--out", type=cli.output, help="where to write the figures as JSON")
    cli.add_set(options)
    args = options.parse_args(arguments)

    import statistics
    import time
    from dataclasses import replace

    import jax
    import jax.numpy as jnp

    from diffusion.mdlm import MDLM
    from experiments.files import write_atomically
    from experiments.overrides import load
    from experiments.plain_json import dumped
    from samplers.ancestral import Ancestral
    from samplers.first_hitting import FirstHitting
    from samplers.unmask import Steps, Unmask

    experiment = load(args.config, args.set)
    rows, length = args.batch_size, experiment.data.length
    samplers = {
        "Ancestral": Ancestral(STEPS),
        "FirstHitting": FirstHitting(steps=STEPS),
        "Unmask": Unmask("confidence", Steps(STEPS)),
    }

    def compiled(vocab):
        model = replace(experiment.model, vocab_size=vocab)
        params = model.init(jax.random.key(0))
        logits = jax.random.normal(jax.random.key(1), (rows, length, vocab))
        z, t = jnp.full((rows, length), vocab), jnp.full((rows, 1), 0.5)
        network = jax.jit(model.apply).lower(params, z, t).compile()
        programs = {"network": lambda: network(params, z, t)}
        for name, sampler in samplers.items():

            def run(key, logits, sampler=sampler):
                # By time they differ, lest the compiler work on them once for all steps.
                free = lambda z, t: logits + 1e-6 * t[..., None]  # noqa: E731
                sampled = sampler.run(key, MDLM(vocab), free, (rows, length))
                return sampled.x0, sampled.calls

            program = jax.jit(run).lower(jax.random.key(0), logits).compile()
            programs[name] = lambda program=program: program(jax.random.key(2), logits)
        return programs

    figures = {"device": jax.devices()[0].device_kind, "settings": vars(args), "seconds": {}}
    for vocab in args.vocab:
        programs = compiled(vocab)
        seconds = {name: [] for name in programs}
        for number in range(args.rounds + 1):
            for name, program in programs.items():
                start = time.perf_counter()
                result = jax.block_until_ready(program())
                calls = 1 if name == "network" else int(result[1].max())
                if number:  # the first round warms up
                    seconds[name].append((time.perf_counter() - start) / calls)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        figures["seconds"][vocab] = median
        network = median.pop("network")
        cli.log(f"V = {vocab}: a call of the network {network * 1e3:.1f} ms")
        for name, value in median.items():
            cli.log(
                f"  {name}: {value * 1e3:.2f} ms a step outside the network, "
                f"{value / (value + network):.1%} of a step"
            )
    if args.out:
        write_atomically(args.out, dumped(figures, indent=1) + "\n")
    return figures


if __name__ == "__main__":
    cli.run("studies.sampler_overhead")
