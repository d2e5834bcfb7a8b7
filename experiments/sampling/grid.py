"""The loss in equal intervals of time, by which `TimedSampler.grid = "fitted"` places a sampler's steps.

Where `token_loss` is the integrand of the bound, its mean at t is the rate at which a sampler has to
find out about x0, in nats per unit of t: over small steps the bound is the sum of the divergences of the
steps, and its integral from s to t is what one step from t to s is charged. Equal integrals are steps
that find out equally much. Of a masked process it is the rate of reveals times what a token costs.

The loss of a flow on the simplex is the cross entropy of x0 at t, no rate: it is near log V where
nothing happens yet. What a step finds out is how far it falls, for the exact denoiser the sum over
positions of I(x0^i; z_s) - I(x0^i; z_t), and so intervals are given the fall of the loss through them
(the time warping of CDCD, arXiv 2211.15089). A row's noise is the same at all times, so that the falls
have less of it.

What is stored in a run, sampling-grid.json, is plain JSON, and is checked when it is read.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.model import Model
from diffusion.process import (
    Composed,
    FlowProcess,
    JumpProcess,
    Objective,
    Process,
    TimeIntegral,
)
from experiments.data.pipeline import evaluation_batches
from experiments.data.text import prepare
from experiments.devices.memory import check_program
from experiments.devices.sharding import batch_shards, global_batch, replicated
from experiments.errors import UserError
from experiments.evaluation.bound import sequences
from experiments.files import write_atomically
from experiments.labels import check_labels
from experiments.overrides import resolve
from experiments.plain_json import parse
from experiments.progress import Progress
from experiments.run import Run
from experiments.streams import complain
from experiments.training.checkpoints import Checkpoints

FILE = "sampling-grid.json"
SCHEMA = "ddlm sampling grid 1"
MOST_BINS = 4096
_LEAST = 1e-6  # times are at least so far from 0 and 1, as in training


def timed(process: Objective) -> Process:
    """The process whose loss at one time is measured: itself, or that under blocks or an energy.
    UserError where there is none."""
    base = process.base if isinstance(process, Composed) else process
    if not isinstance(base, Process) or process.traits.max_steps is not None:
        raise UserError(
            f"{type(process).__name__} has no loss at a time, so there is no grid of times to fit"
        )
    return base


def measures_fall(process: Objective) -> bool:
    """Whether information is the fall of the loss, since the loss is the cross entropy of x0 and no
    integrand of a bound."""
    base = timed(process)
    return isinstance(base, FlowProcess) and not isinstance(base, TimeIntegral)


def information(
    process: Objective, model: Model, keys: jax.Array, x0: jax.Array, place: jax.Array, bins: int
) -> jax.Array:
    """(bins, B) nats per position and unit of t, of the intervals from t = 0 on; their mean is the
    integral.

    keys (B,); place (B, 1) in (0, 1): where in each interval a row's time lies, to be stratified over
    the rows.
    """
    base = timed(process)
    if isinstance(process, Composed):
        model, place = process.for_base(model, x0, place)
    if not isinstance(base, JumpProcess):
        base = base.in_steps(None)  # token_loss is that of continuous time

    def at(key, u):
        u = jnp.clip(u, _LEAST, 1 - _LEAST)
        t = base.time(u)
        z = base.corrupt(key, x0, t)
        return base.token_loss(model(z, t), x0, z, t).mean(1)

    def within(k):
        return at(jax.vmap(lambda key: jax.random.fold_in(key, k))(keys), (k + place) / bins)

    if not measures_fall(process):
        return jax.lax.map(within, jnp.arange(bins))
    edges = jnp.arange(bins + 1) / bins
    losses = jax.lax.map(lambda u: at(keys, jnp.full_like(place, u)), edges)
    return bins * jnp.diff(losses, axis=0)


def measure(
    run: Run, split: str, num_sequences: int, bins: int, seed: int, log: Callable[[str], None]
) -> dict:
    """The record of `bins` intervals over at most `num_sequences` whole sequences of a split."""
    experiment = run.experiment
    timed(experiment.process)
    check_labels(experiment)
    corpus = prepare(experiment.data)
    resolve(experiment, corpus.tokenizer)  # rejects text of another alphabet
    if experiment.data.rows != "wrap":
        raise UserError(
            f"data.rows = {experiment.data.rows}: rows of several texts are not measured by time; leave "
            "out --grid fitted"
        )
    tokens, labels = sequences(experiment, corpus, split, num_sequences)
    assert isinstance(tokens, np.ndarray)  # as rows are "wrap"
    length = experiment.data.length
    count = len(tokens) // length
    if count < 2:
        raise UserError(f"the {split} split has one sequence, and a standard error needs two")
    tokens, labels = tokens[: count * length], None if labels is None else labels[:count]
    rng = np.random.default_rng(seed)
    places = (rng.permutation(count) + rng.random(count)) / count
    measured = np.concatenate(
        list(_rows(run, bins, seed, tokens, labels, places.astype(np.float32), log)), axis=1
    )
    mean, error = measured.mean(1), measured.std(1, ddof=1) / math.sqrt(count)
    if not np.isfinite(measured).all():
        bad = int(np.flatnonzero(~np.isfinite(measured).all(1))[0])
        raise UserError(
            f"the loss between t = {bad / bins:.4g} and {(bad + 1) / bins:.4g} is not finite"
        )
    if not mean.max() > 0:
        raise UserError("the loss does not fall towards t = 0 anywhere: train the run for longer")
    total = measured.mean(0)
    return {
        "schema": SCHEMA,
        "process": type(experiment.process).__name__,
        "quantity": "fall of the loss" if measures_fall(experiment.process) else "loss",
        "unit": "nats per position and unit of t",
        "information": np.maximum(mean, 0).tolist(),
        "standard_error": error.tolist(),
        "integral": float(total.mean()),
        "integral_standard_error": float(total.std(ddof=1) / math.sqrt(count)),
        "split": split,
        "split_sha256": corpus.sha256[split],
        "source": corpus.source,
        "sequences": count,
        "seed": seed,
        "checkpoint_step": run.step,
        "checkpoint_fingerprint": run.fingerprint,
    }


def _rows(run: Run, bins: int, seed: int, tokens, labels, places, log):
    """(bins, rows) of one batch after another, by one compiled program."""
    experiment, mesh = run.experiment, run.mesh

    def program(params, x0, first, place, conditioning):
        numbers = first + jnp.arange(x0.shape[0])
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)
        process = experiment.bind(params)
        network = experiment.network(params, **conditioning)
        return information(process, network, keys, x0, place, bins)

    compiled = jax.jit(program, out_shardings=replicated(mesh))
    shards = batch_shards(mesh)
    batch = -(-min(experiment.evaluation.batch_size, len(places)) // shards) * shards
    first = 0
    with Progress(log) as progress:
        for *rows, count in evaluation_batches(tokens, experiment.data.length, batch, labels):
            place = np.resize(places[first : first + count], batch)[:, None]
            rows = jax.tree.map(lambda a: global_batch(mesh, a, axis=0), [*rows, place])
            x0, conditioning, place = rows
            if not first:
                lowered = compiled.lower(run.params, x0, first, place, conditioning)
                check_program(lowered, batch, x0.shape[1], mesh, "evaluation.batch_size")
            nats = compiled(run.params, x0, first, place, conditioning)
            yield np.asarray(nats, np.float64)[:, :count]
            first += count
            progress(first, len(places))


def table(record: dict) -> str:
    """The record to read: intervals, what they hold, and their shares of all."""
    values, bins = record["information"], len(record["information"])
    lines = [f"{'t':>15}  {'nats per position and t':>25}  share"]
    for k, (value, error) in enumerate(zip(values, record["standard_error"], strict=True)):
        interval = f"{k / bins:.4f}-{(k + 1) / bins:.4f}"
        lines.append(f"{interval:>15}  {value:>13.4f} +- {error:>8.4f}  {value / sum(values):.4f}")
    lines.append(
        f"integral of the {record['quantity']}: {record['integral']:.4f} +- "
        f"{record['integral_standard_error']:.4f} nats per position, {record['sequences']} sequences "
        f"of {record['split']}, checkpoint {record['checkpoint_step']}"
    )
    return "\n".join(lines)


def write_grid(path: Path, record: dict) -> None:
    """Nothing; the record is in the file."""
    write_atomically(path, json.dumps(record, indent=1, allow_nan=False) + "\n")


def fitted_information(workdir: str | Path, run: Run | None = None) -> tuple[float, ...]:
    """`TimedSampler.information` as measured for the run in `workdir`.

    run: what is going to be sampled, if not the newest checkpoint. UserError where the file is missing,
    damaged, or of another process. A warning where it was measured at another checkpoint: every grid
    samples the same process, only less evenly.
    """
    path = Path(workdir) / FILE
    again = f"run python -m experiments.fit_grid --workdir {workdir}"
    if not path.is_file():
        raise UserError(f"{path} does not exist; {again} first")
    try:
        record = _checked(parse(path.read_bytes(), finite=True))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {again} again") from error
    checkpoints = Checkpoints(Path(workdir) / "checkpoints")
    if run is not None:
        step, fingerprint = run.step, run.fingerprint
        process = type(run.experiment.process).__name__
        if record["process"] != process:
            raise UserError(
                f"{path} was measured for {record['process']}, and the run holds {process}; "
                f"{again} again"
            )
    else:
        step = checkpoints.latest()
        fingerprint = None if step is None else checkpoints.fingerprint(step)
    if fingerprint not in (None, record["checkpoint_fingerprint"]):
        complain(
            f"warning: {path} was measured at another checkpoint ({record['checkpoint_step']}, not "
            f"{step}); for an even grid {again} again"
        )
    return tuple(record["information"])


def _checked(record) -> dict:
    """The record, of the right form; ValueError for another."""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA!r}")
    kinds = {"process": str, "split": str, "sequences": int, "checkpoint_step": int,
             "checkpoint_fingerprint": str, "information": list, "standard_error": list}  # fmt: skip
    for name, kind in kinds.items():
        if type(record.get(name)) is not kind:
            raise ValueError(f"{name} is missing or not of type {kind.__name__}")
    if record["sequences"] < 1 or record["checkpoint_step"] < 0:
        raise ValueError("sequences or checkpoint_step is below what it may be")
    values = record["information"]
    if not 1 <= len(values) <= MOST_BINS or len(values) != len(record["standard_error"]):
        raise ValueError(f"information has {len(values)} entries")
    for value in (*values, *record["standard_error"]):
        if type(value) not in (int, float) or not 0 <= value < 1e30:
            raise ValueError(f"{value!r} is not a finite number of at least 0"[:80])
    if not sum(values) > 0:
        raise ValueError("information is 0 everywhere")
    record["information"] = [float(value) for value in values]
    return record
