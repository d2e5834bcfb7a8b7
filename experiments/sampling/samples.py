"""Samples of a run: settings by name, and the compiled loop over batches of samples."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from diffusion.model import given
from diffusion.process import denoising_process
from diffusion.random import fold_in
from experiments.config import Experiment
from experiments.devices.memory import check_program
from experiments.devices.sharding import BATCH, batch_shards, global_batch, replicated
from experiments.errors import UserError
from experiments.overrides import leaves, override
from experiments.run import Run
from experiments.sampling.constraints import UNCONSTRAINED, SamplingConstraints
from models.layers import use_mesh
from samplers.ending import padded
from samplers.required import place
from samplers.sampler import Frames, Sampled


def with_setting(experiment: Experiment, name: str, value: Any, option: str) -> Experiment:
    """The experiment with a setting of its sampler, or the sampler inside of it, by last names."""
    paths = [path for path in leaves(experiment.sampler) if f".{path}".endswith(f".{name}")]
    if not paths:
        parts = [type(experiment.sampler).__name__]
        parts += [
            f"{f.name} {type(part).__name__}"
            for f in fields(experiment.sampler)
            if is_dataclass(part := getattr(experiment.sampler, f.name))
            and f.name != "logits_processor"
        ]
        raise UserError(
            f"{option} {value}: sampler {', '.join(parts)} has no setting {name}; leave it out "
            "or choose another --sampler"
        )
    try:
        return override(experiment, [f"sampler.{paths[0]}={value}"])
    except UserError as error:
        raise UserError(error.what, error.advice, f"{option} {value}") from error


def with_steps(experiment: Experiment, steps: int) -> Experiment:
    """The experiment with `steps` of its sampler, those per block where it goes block by block."""
    return with_setting(experiment, "steps", steps, "--steps")


def make_sample(
    experiment: Experiment,
    mesh: jax.sharding.Mesh,
    constraints: SamplingConstraints = UNCONSTRAINED,
    trace: bool = False,
    tell: Callable[[], None] | None = None,
) -> jax.stages.Wrapped:
    """sample(params, seed, numbers (B,), known (L,) or (B, L), guide, conditioning) -> (`Sampled`, known
    (B, L) with required words in their places), one compiled program; guide: the parameters of the
    classifier, or None. conditioning: what the network is given besides, of samples without constraints.
    tell: as of `SamplingConstraints.network`."""

    @use_mesh(mesh)
    def run(params, seed, numbers, known, guide=None, conditioning=None):
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)
        shape = (len(numbers), known.shape[-1])
        known = jnp.broadcast_to(known, shape)
        process = experiment.bind(params)
        network = constraints.network(experiment, params, guide, known, tell)
        network = given(network, **conditioning) if conditioning else network
        if constraints.words:
            known = place(
                fold_in(keys, 1), denoising_process(process), network, known, constraints.words
            )
        sampled = experiment.sampler.run(keys, process, network, shape, known, trace=trace)
        x0 = padded(sampled.x0, constraints.stop, known)
        # What is known, read off the samples: gathered by itself, beside the loop's own collectives, it
        # could block all threads of a CPU that plays several devices.
        return sampled._replace(x0=x0), jnp.where(known >= 0, x0, -1)

    return jax.jit(run, out_shardings=replicated(mesh))


def sample_run(
    run: Run,
    num: int,
    seed: int,
    known: np.ndarray,
    batch_size: int,
    constraints: SamplingConstraints = UNCONSTRAINED,
    trace: bool = False,
    start: int = 0,
    progress: Callable[[int, int], None] | None = None,
    segments: np.ndarray | None = None,
) -> Iterator[tuple[int, Sampled, np.ndarray]]:
    """(number, `Sampled`, known tokens (L,) with required words), of samples start to num - 1. known:
    (L,), or (P, L), of which sample n has row n modulo P. progress(samples drawn, num) is called after
    each batch, and after each step of a slow one, as if it drew its samples one after another. segments:
    (P, L), 0 where the rows have padding, None where they have none."""
    if trace and not run.experiment.sampler.keeps_frames:
        advice = "use one that works on the whole sequence, such as Ancestral or FirstHitting"
        if run.experiment.process.traits.inserts:
            advice = f"none of {type(run.experiment.process).__name__} does"
        name = type(run.experiment.sampler).__name__
        raise UserError(f"sampler {name} keeps no frames for --trace and --watch; {advice}")
    if start >= num:
        return  # nothing is left to draw, so nothing is compiled
    shards = batch_shards(run.mesh)
    batch = -(-batch_size // shards) * shards
    first = calls = 0

    def tell():
        nonlocal calls
        assert progress is not None  # without it nobody is told
        calls += 1
        most = run.experiment.sampler.calls(run.experiment.process, known.shape[-1]) + 1
        progress(first + min(batch, num - first) * min(calls, most - 1) // most, num)

    compiled = make_sample(run.experiment, run.mesh, constraints, trace, progress and tell)
    guide = constraints.guide
    split = NamedSharding(run.mesh, P(BATCH))

    def of_samples(rows, numbers):
        return rows if rows.ndim == 1 else global_batch(run.mesh, rows[numbers % len(rows)], 0)

    def given(numbers):
        padding = {} if segments is None else {"segments": of_samples(segments, numbers)}
        return of_samples(known, numbers), guide, padding

    numbers = jax.ShapeDtypeStruct((batch,), np.int32, sharding=split)
    lowered = compiled.lower(run.params, seed, numbers, *given(np.arange(batch)))
    check_program(lowered, batch, known.shape[-1], run.mesh, "--batch-size", "--length")
    for first in range(start, num, batch):
        calls = 0
        of_batch = np.arange(first, first + batch, dtype=np.int32)
        numbers = global_batch(run.mesh, of_batch, axis=0)
        drawn = compiled(run.params, seed, numbers, *given(of_batch))
        sampled, fixed = jax.tree.map(np.asarray, drawn)
        for i in range(min(batch, num - first)):
            frames = sampled.frames and Frames(*(a[:, i] for a in sampled.frames))
            yield (
                first + i,
                Sampled(sampled.x0[i], sampled.calls[i] + len(constraints.words), frames),
                fixed[i],
            )
        if progress:
            progress(min(first + batch, num), num)
