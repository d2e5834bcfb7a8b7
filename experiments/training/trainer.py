"""The training loop: one compiled step after another, with metrics, evaluation and checkpoints.

A run is a function of its config: it may be stopped anywhere and continued, on another number of
devices too, and gives what it would have given uninterrupted (bit for bit on the same devices).
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from diffusion.process import Likelihood
from experiments.config import Experiment, Train
from experiments.curves import write_curves
from experiments.data.corpus import Corpus
from experiments.data.pipeline import training_batches
from experiments.data.text import prepare
from experiments.devices.distributed import agree, first_says, in_turn, is_first
from experiments.devices.memory import check_program
from experiments.devices.sharding import (
    BATCH,
    batch_shards,
    global_batch,
    make_mesh,
    replicated,
    rows_here,
    tree_shardings,
)
from experiments.errors import Stopped, UserError
from experiments.evaluation.estimators import check_bound
from experiments.labels import check_labels
from experiments.overrides import kinds, leaves, resolve
from experiments.published.source import keep_base
from experiments.serialization import encode
from experiments.training.checkpoints import Checkpoints
from experiments.training.initial import load_initial, place_of, with_model_of_run
from experiments.training.meter import Meter
from experiments.training.metrics import Metrics, NoMetrics
from experiments.training.monitor import Evaluate, evaluated, make_evaluate
from experiments.training.recovery import Rollback, data_seed, newest_state
from experiments.training.signals import Interrupted, Signals
from experiments.training.teacher import load_teacher
from experiments.training.tracking import tracking
from experiments.training.train_step import init_state, make_train_step, zero_totals
from experiments.training.workdir import check_workdir, claim, one_writer
from models.backbone import num_parameters

Log = Callable[[str], None]


def train(
    experiment: Experiment, workdir: Path, log: Log = print, reading: Sequence[str] | None = ()
) -> None:
    """Trains up to `train.num_steps`, from the newest checkpoint in `workdir` where there is one.
    reading: the options with which other commands read the run (`overrides.reading_options`), for the
    last line of the log, which names the next command; None where the caller goes on itself.

    Raises UserError for what the user can put right (nothing in `workdir` changes then), also where
    another process trains in it; Diverged for a loss that is not finite and stays so, Stopped after a
    signal, once the state is saved.
    """
    with Signals() as signals, one_writer(workdir, log):
        _train(experiment, workdir, log, reading, signals)


@dataclass(frozen=True)
class Ready:
    """What `set_up` makes. experiment: resolved; frozen: parameters of the teacher, or None; like: the
    state, placed, without its values; step: (state, tokens, conditioning) -> (state, loss), jitted."""

    experiment: Experiment
    corpus: Corpus
    mesh: jax.sharding.Mesh
    frozen: dict | None
    like: dict
    step: partial
    evaluate: Evaluate

    @property
    def shardings(self) -> Any:
        """How the state is placed."""
        return jax.tree.map(lambda x: x.sharding, self.like)

    def initial(self, begin: dict | None) -> dict:
        """The state before the first step, with the parameters of `begin` as far as it has them."""
        teacher = self.experiment.teacher
        init = jax.jit(partial(init_state, self.experiment), out_shardings=self.shardings)
        begin = self.frozen if teacher and teacher.start_from else begin
        return init(begin, self._first_rows(self.experiment.model.fitted_rows))

    def _first_rows(self, count: int) -> jax.Array | None:
        """Tokens (N, L) of the first batches, N at least `count`; None for 0."""
        if not count:
            return None
        batches = self.batches(0)
        number = -(-count // self.experiment.train.batch_size)
        rows = [next(batches)[0] for _ in range(number)]
        return jnp.concatenate(rows).reshape(-1, self.experiment.data.length)

    def batches(self, start: int, retry: int = 0) -> Iterator[tuple]:
        """What `step` takes beside the state, from step `start` + 1 on."""
        return _batches(self.experiment, self.corpus, self.mesh, start, retry)

    def check_memory(self) -> int:
        """The bytes that a step takes of a device, as far as its compiler tells, else 0. UserError where
        it or the evaluations do not fit; both are compiled here."""
        train, length = self.experiment.train, self.experiment.data.length
        described = described_batch(self.experiment, self.mesh)
        lowered = self.step.func.lower(self.like, *described, **self.step.keywords)
        rows = train.batch_size // train.accumulation
        setting = "train.batch_size / train.accumulation"
        needed = check_program(lowered, rows, length, self.mesh, setting)
        if train.eval_every <= train.num_steps:
            self.evaluate.check(self.like["ema"])
        return needed


def set_up(
    experiment: Experiment, workdir: Path | None, log: Log, signals: Signals
) -> tuple[Ready, dict | None]:
    """(all that training needs, the parameters of other runs that it begins with or None). Nothing is
    written but the cache of prepared text. workdir: None for training that is only tried. UserError for
    what the user can put right."""
    config, experiment = experiment.train, with_model_of_run(experiment, workdir)
    config.tracker.check()
    with in_turn():
        corpus = prepare(experiment.data)
    least = experiment.data.length if experiment.data.rows == "wrap" else 1
    for split in ("train", "validation"):
        corpus.check_split(split, least)
    experiment = resolve(experiment, corpus.tokenizer, corpus.training_tokens, corpus.label_names)
    settings = kinds(experiment) | leaves(experiment)
    agree(
        {path: repr(value) for path, value in settings.items()}
        | {
            "the text": corpus.sha256["train"] + corpus.sha256["validation"],
            "the version of ddlm or jax": f"{version('ddlm')} {jax.__version__}",
        }
    )
    check_labels(experiment)
    if experiment.process.monitor == "bound":
        check_bound(experiment)
    experiment, frozen = load_teacher(experiment)
    experiment, begin = load_initial(experiment, workdir, log)
    mesh = make_mesh(experiment.mesh)
    check_batch(config, mesh)
    if frozen is not None:
        roles = experiment.teacher_roles()
        frozen = jax.device_put(frozen, tree_shardings(mesh, frozen, roles))
    like = described_state(experiment, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, like)
    step = partial(make_step(experiment, mesh, shardings), frozen=frozen)
    evaluate = make_evaluate(experiment, corpus, mesh, frozen, signals)
    if workdir is not None:
        check_workdir(workdir, experiment)
    log(_summary(experiment, corpus, like))
    return Ready(experiment, corpus, mesh, frozen, like, step, evaluate), begin


def _train(
    experiment: Experiment, workdir: Path, log: Log, reading: Sequence[str] | None, signals: Signals
) -> None:
    config = experiment.train
    ready, begin = set_up(experiment, workdir, log, signals)
    experiment, corpus, evaluate = ready.experiment, ready.corpus, ready.evaluate
    checkpoints = Checkpoints(workdir / "checkpoints", config.keep_last, config.keep_best)
    check = partial(check_text, checkpoints, corpus)
    if max(first_says(checkpoints.steps()), default=0) < config.num_steps:
        ready.check_memory()
    claim(workdir, experiment)
    if begin is not None and is_first():
        keep_base(place_of("init_from", experiment.init_from), workdir)
    with checkpoints:
        newest = newest_state(checkpoints, ready.like, check, log)
        state, start = newest or (ready.initial(begin), 0)
        del begin, newest
        log(f"continuing after step {start}" if start else "starting")
        if config.num_steps == 0 and checkpoints.latest() is None:
            checkpoints.save(0, state, _meta(experiment, corpus, 0))
            log(f"saved as step 0{_next(experiment, workdir, reading)}")
            return
        pending = start and checkpoints.meta(start).get("evaluation_pending")
        if start >= config.num_steps and not pending:
            more = "; continue with --set train.num_steps=N above it" if config.num_steps else ""
            log(f"already at step {start}{more}")
            return
        with _metrics(experiment, workdir, start, log) as metrics:
            if pending:
                value = evaluated(evaluate, state, start, experiment, metrics, log)
                checkpoints.complete(start, _meta(experiment, corpus, start), value)
            save = partial(_save, experiment, corpus, evaluate, checkpoints, metrics, signals, log)
            again = start < config.num_steps
            while again:
                again = _loop(ready, state, start, save, metrics, signals, log)
                if again:
                    retry = again.due(config, checkpoints, log)
                    newest = newest_state(checkpoints, ready.like, check, log)
                    assert newest is not None  # `due` has seen one
                    state, start = newest
                    placed = jax.device_put(np.int32(retry), replicated(ready.mesh))
                    state["health"] = {**state["health"], "retry": placed}
                    metrics.rewind(start)
    if is_first():
        write_curves(workdir, log)
    log(f"trained to step {config.num_steps}{_next(experiment, workdir, reading)}")


@contextmanager
def _metrics(
    experiment: Experiment, workdir: Path, start: int, log: Log
) -> Iterator[Metrics | NoMetrics]:
    """What takes the metrics: of the first process files and the tracker, of others nothing."""
    if not is_first():
        yield NoMetrics()
        return
    settings = kinds(experiment) | leaves(experiment)
    with (
        tracking(experiment.train.tracker, workdir, settings, log) as follow,
        Metrics(workdir, start, log, follow) as metrics,
    ):
        yield metrics


def _next(experiment: Experiment, workdir: Path, reading: Sequence[str] | None) -> str:
    """The end of a line that names the next command; empty where the caller goes on itself."""
    if reading is None:
        return ""
    if experiment.process.traits.output == "label":
        return f"; now: ddlm sample --workdir RUN --classifier {shlex.quote(str(workdir))} --label NAME"
    then = "evaluate" if isinstance(experiment.process, Likelihood) else "sample"
    return f"; now: {shlex.join(['ddlm', then, '--workdir', str(workdir), *reading])}"


def _loop(ready: Ready, state, start, save, metrics, signals, log) -> Rollback | None:
    """Trains from step `start` to the end: None, or the Rollback that is due."""
    config = ready.experiment.train
    meter = Meter(ready.experiment, start, log)
    batches = ready.batches(start, int(state["health"]["retry"]))
    cleared = jax.jit(zero_totals, out_shardings=replicated(ready.mesh))
    previous = waiting = None  # of the step before: its loss, and what is logged of it

    def read(step, totals, health):
        """The Rollback that is due according to what is now written."""
        totals, health = jax.device_get((totals, health))
        started, running = latest
        finished = started if running.is_ready() else step
        metrics.write(*meter.read(step, totals, health, started, finished))
        bad = int(health["bad"])
        return Rollback(step, bad, int(health["retry"])) if bad >= config.rollback_after else None

    for step in range(start + 1, config.num_steps + 1):
        state, loss = ready.step(state, *next(batches))
        latest = step, loss
        signals.idle = False
        signals.agree()
        # This step runs; now read what the one before measured, and wait for it, so that the host
        # is one step ahead and no more.
        if waiting is not None and (rollback := read(*waiting)):
            return rollback
        waiting = None
        if previous is not None:
            previous.block_until_ready()
        previous = loss
        if step % config.log_every == 0:
            waiting = step, state["totals"], jax.tree.map(jnp.copy, state["health"])
            state = {**state, "totals": cleared()}
        last = step == config.num_steps
        due = 0 in (step % config.eval_every, step % config.checkpoint_every)
        if not (due or last or signals.received):
            continue
        if waiting is not None and (rollback := read(*waiting)):
            return rollback
        waiting = None
        totals, health = jax.device_get((state["totals"], state["health"]))
        meter.check(step, totals)
        if health["bad"] >= config.rollback_after or (health["bad"] and last):
            return Rollback(step, int(health["bad"]), int(health["retry"]))
        if health["bad"]:
            continue  # a rollback must find what it would have found without this save
        with meter.paused():
            save(step, state)
    return None


def _save(
    experiment, corpus, evaluate, checkpoints, metrics, signals, log, step: int, state: dict
) -> None:
    """Saves the state, ranked by its evaluation where one is due; Stopped after a signal."""
    config, value, pending = experiment.train, None, None
    if step % config.eval_every == 0:
        try:
            value = evaluated(evaluate, state, step, experiment, metrics, log)
        except Interrupted:
            pending = True
    checkpoints.save(step, state, _meta(experiment, corpus, step, pending), value)
    if signals.received and (pending or step < config.num_steps):
        checkpoints.wait()
        raise Stopped(
            f"stopped by {signals.received.name} after step {step}, which is saved; "
            "the same command continues it",
            signals.received,
        )


def _batches(experiment: Experiment, corpus: Corpus, mesh, start: int, retry: int) -> Iterator:
    config = experiment.train
    size = config.batch_size // config.accumulation
    rows_of = training_batches(
        corpus.training_text(experiment.data.length, experiment.data.rows),
        experiment.data.length,
        size,
        data_seed(config.seed, retry),
        labels=corpus.split_labels("train"),
        start=start * config.accumulation,
        local_rows=rows_here(mesh, size),
    )
    while True:
        microbatches = [next(rows_of) for _ in range(config.accumulation)]
        yield jax.tree.map(
            lambda *rows: global_batch(mesh, np.stack(rows), axis=1, count=size), *microbatches
        )


def make_step(
    experiment: Experiment, mesh: jax.sharding.Mesh, shardings: Any
) -> jax.stages.Wrapped:
    """The training step, jitted for a state that is placed by `shardings` and donated."""
    return jax.jit(
        make_train_step(experiment, mesh),
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
    )


def described_batch(
    experiment: Experiment, mesh: jax.sharding.Mesh
) -> tuple[jax.ShapeDtypeStruct, dict]:
    """(tokens, what is given of them) as the training step takes them, without values."""
    train, split = experiment.train, NamedSharding(mesh, P(None, BATCH))
    rows = (train.accumulation, train.batch_size // train.accumulation)
    tokens = jax.ShapeDtypeStruct((*rows, experiment.data.length), jnp.int32, sharding=split)
    if given := experiment.data.given:
        known = jax.ShapeDtypeStruct(tokens.shape, bool, sharding=split)
        return tokens, {name: known if name == "known" else tokens for name in given}
    label = jax.ShapeDtypeStruct(rows, jnp.int32, sharding=split)
    return tokens, {"label": label} if experiment.data.labels else {}


def check_batch(config: Train, mesh: jax.sharding.Mesh) -> None:
    """Nothing; UserError where a microbatch cannot be spread over the mesh."""
    microbatch, shards = config.batch_size // config.accumulation, batch_shards(mesh)
    if microbatch % shards:
        raise UserError(
            f"train.batch_size / train.accumulation = {microbatch} sequences cannot be divided over "
            f"{shards} devices of the batch axes; choose a multiple, or set mesh.data and mesh.fsdp"
        )


def described_state(experiment: Experiment, mesh: jax.sharding.Mesh) -> dict:
    """The state as it is to be placed, without its values."""
    abstract = jax.eval_shape(lambda: init_state(experiment))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract,
        tree_shardings(mesh, abstract, experiment.roles()),
    )


def check_text(checkpoints: Checkpoints, corpus: Corpus, meta: dict) -> None:
    """Nothing; UserError where the checkpoint with this meta was trained on other text."""
    data = meta.get("data")
    if not isinstance(data, dict) or data.get("train_sha256") != corpus.sha256["train"]:
        raise UserError(
            f"the run in {checkpoints.directory.parent} was trained on other text than "
            f"{corpus.source} has now; use the same data, or another --workdir"
        )


def _meta(experiment: Experiment, corpus: Corpus, step: int, pending: bool | None = None) -> dict:
    """pending: whether the evaluation at this step was left for the continuation."""
    return {
        "config": encode(experiment),
        "data": {
            "next_example": step * experiment.train.batch_size,
            "source": corpus.source,
            "train_sha256": corpus.sha256["train"],
        },
        "version": version("ddlm"),
    } | ({"evaluation_pending": True} if pending else {})


def _summary(experiment: Experiment, corpus: Corpus, state: dict) -> str:
    sizes = ", ".join(f"{name} {b - a:,}" for name, (a, b) in corpus.bounds.items())
    name, data = type(experiment.process).__name__, experiment.data
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return (
        f"{name}, {num_parameters(state['params']):,} parameters, {jax.device_count()} x "
        f"{jax.devices()[0].device_kind}{processes}\n{corpus.source}: {sizes} tokens of "
        f"{experiment.process.vocab_size} ({type(data.tokenizer).__name__}), in "
        f"{'sequences' if data.rows == 'wrap' else f'rows ({data.rows})'} of {data.length}\n"
        f"{corpus.files}" + (f"\nlabels: {', '.join(corpus.label_names)}" if corpus.labels else "")
    )
