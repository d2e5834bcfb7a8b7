"""Samples of a run: what is given, and the compiled loop over batches of samples."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Experiment
from experiments.data.tokenizers import Tokenizer
from experiments.errors import UserError
from experiments.memory import check_memory
from experiments.runs import Run
from experiments.settings import leaves, override
from experiments.sharding import batch_shards, global_batch, replicated
from samplers.sampler import Frames, Sampled


def given_tokens(
    tokenizer: Tokenizer, length: int, prompt: str, template: str | None, blank: str
) -> np.ndarray:
    """(L,) int32, -1 where the model is to fill in; UserError for what cannot stand in a sample."""
    if prompt and template is not None:
        raise UserError(
            "--prompt and --template exclude each other; put the prompt into the template"
        )
    if len(blank) != 1:
        raise UserError(f"--blank {blank!r} must be one character")
    known = np.full(length, -1, np.int32)
    name, text = ("--prompt", prompt) if template is None else ("--template", template)
    parts, at = (text.split(blank) if template is not None else [text]), 0
    for number, part in enumerate(parts):
        at += number > 0
        tokens = np.concatenate([*tokenizer.encode([part], name), np.zeros(0, np.int32)])
        if at + len(tokens) > length:
            raise UserError(
                f"{name} is longer than the model's {length} tokens; shorten it, or raise --length"
            )
        known[at : at + len(tokens)] = tokens
        at += len(tokens)
    return known


def with_steps(experiment: Experiment, steps: int) -> Experiment:
    """The experiment with `steps` of its sampler, those per block where it goes block by block."""
    paths = [path for path in leaves(experiment.sampler) if path.split(".")[-1] == "steps"]
    if not paths:
        raise UserError(
            f"--steps {steps}: {type(experiment.sampler).__name__} takes one per token; leave it out"
        )
    return override(experiment, [f"sampler.{paths[0]}={steps}"])


def check_given(experiment: Experiment, known: np.ndarray) -> None:
    """UserError for a token given after a blank, to a sampler that goes from left to right by blocks:
    it would write the blank without regard to it."""
    size = getattr(experiment.process, "block_length", None)
    if size is None or (known >= 0).all():
        return
    block, first = np.arange(len(known)) // size, int(np.argmax(known < 0))
    late = np.flatnonzero((known >= 0) & (block > first // size))
    if len(late):
        raise UserError(
            f"{type(experiment.process).__name__} writes from left to right, {size} tokens at a time, "
            f"and the blank at {first} would not know what is given at {late[0]}; give a prompt "
            "alone, or use a process that is not from left to right, such as MDLM"
        )


def make_sample(experiment: Experiment, mesh, trace: bool = False):
    """sample(params, seed, numbers (B,), given (L,)) -> `Sampled` of B rows, one compiled program."""

    def run(params, seed, numbers, given):
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)
        shape = (len(numbers), len(given))
        known = jnp.broadcast_to(given, shape)
        process, network = experiment.bind(params), experiment.network(params)
        return experiment.sampler.run(keys, process, network, shape, known, trace=trace)

    return jax.jit(run, out_shardings=replicated(mesh))


def sample_run(
    run: Run, num: int, seed: int, known: np.ndarray, batch_size: int, trace: bool = False
) -> Iterator[tuple[int, Sampled]]:
    """(number, what was sampled, as arrays of one row) of samples 0 to num - 1."""
    shards = batch_shards(run.mesh)
    batch = -(-batch_size // shards) * shards
    check_memory(run.experiment, batch, run.mesh, "--batch-size")
    compiled = make_sample(run.experiment, run.mesh, trace)
    for first in range(0, num, batch):
        numbers = global_batch(run.mesh, np.arange(first, first + batch), axis=0)
        sampled = jax.tree.map(np.asarray, compiled(run.params, seed, numbers, known))
        for i in range(min(batch, num - first)):
            frames = sampled.frames and Frames(*(a[:, i] for a in sampled.frames))
            yield first + i, Sampled(sampled.x0[i], sampled.calls[i], frames)
