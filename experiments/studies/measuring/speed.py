"""Timings of the compiled programs that users wait for, and what they are compared with."""

import resource
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Experiment
from experiments.data.text import prepare
from experiments.devices.sharding import make_mesh
from experiments.errors import UserError
from experiments.overrides import resolve
from experiments.sampling.samples import make_sample, with_steps
from experiments.training.train_step import init_state, make_train_step

_MATRIX = 2048


def measure(
    experiment: Experiment, rounds: int, sample_steps: list[int], log: Callable[[str], None]
) -> dict:
    """Figures by name; seconds are medians over `rounds`, each round timing everything once."""
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is timed
    corpus = prepare(experiment.data)
    experiment = resolve(experiment, corpus.tokenizer, corpus.training_tokens, corpus.label_names)
    mesh = make_mesh(experiment.mesh)
    model, length, batch = experiment.model, experiment.data.length, experiment.train.batch_size
    tokens = corpus.split("train", batch * length)[: batch * length].reshape(1, batch, length)
    tokens = jnp.asarray(tokens, jnp.int32)
    per_token = model.flops_per_token(length)
    if per_token is None:
        raise UserError(f"{type(model).__name__} does not say what it computes (flops_per_token)")
    params = jax.jit(model.init)(jax.random.key(0))
    figures = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}

    matrix = jnp.ones((_MATRIX, _MATRIX))
    product = _compile("matmul", jax.jit(jnp.matmul), figures, matrix, matrix)
    step = jax.jit(make_train_step(experiment), donate_argnums=0)
    state = jax.jit(lambda: init_state(experiment))()
    step = _compile("train", step, figures, state, tokens)
    z, t = jnp.full((batch, length), experiment.process.num_tokens), jnp.full((batch, 1), 0.5)
    forward = _compile("forward", jax.jit(model.apply), figures, params, z, t)

    def train():
        nonlocal state
        state, loss = step(state, tokens)
        return loss

    timed = {
        "matmul": lambda: product(matrix, matrix),
        "train": train,
        "forward": lambda: forward(params, z, t),
    }
    for steps in sample_steps:
        known = np.full(length, -1, np.int32)
        arguments = (params, 0, np.arange(batch), known)
        name = f"sample_{steps}"
        program = _compile(
            name, make_sample(with_steps(experiment, steps), mesh), figures, *arguments
        )
        timed[name] = lambda program=program, arguments=arguments: program(*arguments)
    seconds = {name: [] for name in timed}
    for number in range(rounds + 1):
        for name, function in timed.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rate = 2 * _MATRIX**3 / median["matmul"]
    flops = 3 * per_token * batch * length
    figures |= {
        "seconds": median,
        "seconds_of_all_rounds": seconds,
        "matmul_gflops": rate / 1e9,
        "train_tokens_per_s": batch * length / median["train"],
        "train_gflops": flops / median["train"] / 1e9,
        "train_fraction_of_matmul": flops / median["train"] / rate,
        "forward_fraction_of_matmul": flops / 3 / median["forward"] / rate,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    log(f"matmul {_MATRIX}: {rate / 1e9:.0f} GFLOP/s")
    log(
        f"train step: {figures['train_tokens_per_s']:,.0f} tokens/s, {figures['train_gflops']:.0f} "
        f"model GFLOP/s, {figures['train_fraction_of_matmul']:.2f} of the matmul; forward pass "
        f"{figures['forward_fraction_of_matmul']:.2f}"
    )
    for steps in sample_steps:
        total = median[f"sample_{steps}"]
        overhead = total / (steps * median["forward"]) - 1
        figures |= {
            f"sample_{steps}_tokens_per_s": batch * length / total,
            f"sample_{steps}_overhead": overhead,
        }
        log(
            f"sample, {steps} steps: {batch * length / total:,.1f} tokens/s, {overhead:+.1%} against "
            f"{steps} forward passes"
        )
    for name, program in figures["programs"].items():
        log(f"{name}: compiled in {program['compile_seconds']:.1f} s, {program['mib']:.0f} MiB")
    log(f"peak memory of the process: {figures['peak_rss_mib']:.0f} MiB")
    return figures


def _compile(name: str, function, figures: dict, *arguments):
    """The compiled program; its compilation time and memory go into figures["programs"]."""
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    memory = compiled.memory_analysis()
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    figures.setdefault("programs", {})[name] = {
        "compile_seconds": time.perf_counter() - start,
        "mib": total / 2**20,
    }
    return compiled
