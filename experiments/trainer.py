"""The training loop: one compiled step after another, with metrics, evaluation and checkpoints.

A run is a function of its config: it may be stopped anywhere and continued, on another number of
devices too, and gives what it would have given uninterrupted (bit for bit on the same devices).
"""

import json
import math
import signal
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from experiments.checkpoints import Checkpoints
from experiments.config import Experiment, Train
from experiments.data.corpus import Corpus
from experiments.data.pipeline import training_batches
from experiments.data.subwords import Subwords
from experiments.data.text import prepare
from experiments.errors import Diverged, Stopped, UserError
from experiments.estimators import check_bound, make_bound, times_per_sequence
from experiments.evaluation import estimate, sequences, spelled
from experiments.files import write_atomically
from experiments.initial import load_initial
from experiments.labels import check_labels
from experiments.memory import check_memory
from experiments.metrics import Metrics
from experiments.runs import TOKENIZER
from experiments.settings import differences, resolve
from experiments.sharding import batch_shards, global_batch, make_mesh, replicated, tree_shardings
from experiments.stored import decode, encode
from experiments.teacher import load_teacher
from experiments.train_step import init_state, learning_rate, make_train_step, zero_totals
from models.transformer import num_parameters

Log = Callable[[str], None]


def train(experiment: Experiment, workdir: Path, log: Log = print) -> None:
    """Trains up to `train.num_steps`, from the newest checkpoint in `workdir` where there is one.

    Raises UserError for what the user can put right (nothing in `workdir` changes then), Diverged for
    a loss that is not finite, Stopped after a signal, once the state is saved.
    """
    config = experiment.train
    corpus = prepare(experiment.data)
    least = experiment.data.length if experiment.data.rows == "wrap" else 1
    tokens = corpus.split("train", least)
    experiment = resolve(experiment, corpus.tokenizer, lambda: tokens, corpus.label_names)
    corpus.split("validation", least)
    check_labels(experiment)
    if experiment.process.monitor == "bound":
        check_bound(experiment)
    experiment, frozen = load_teacher(experiment)
    experiment, begin = load_initial(experiment, workdir, log)
    mesh = make_mesh(experiment.mesh)
    check_batch(config, mesh)
    rows = config.batch_size // config.accumulation
    check_memory(experiment, rows, mesh, "train.batch_size / train.accumulation")
    if frozen is not None:
        frozen = jax.device_put(frozen, tree_shardings(mesh, frozen))
    _claim(workdir, experiment)
    checkpoints = Checkpoints(workdir / "checkpoints", config.keep_last, config.keep_best)
    with checkpoints, _Signals() as signals:
        begin = frozen if experiment.teacher and experiment.teacher.start_from else begin
        state, shardings, start = _state(experiment, checkpoints, corpus, mesh, begin)
        log(_summary(experiment, corpus, state, start))
        if config.num_steps == 0 and checkpoints.latest() is None:
            checkpoints.save(0, state, _meta(experiment, corpus, 0))
            log(f"saved as step 0; now: {_next(experiment, workdir)}")
            return
        if start >= config.num_steps:
            more = "; continue with --set train.num_steps=N above it" if config.num_steps else ""
            log(f"already at step {start}{more}")
            return
        step_function = jax.jit(
            make_train_step(experiment, mesh),
            donate_argnums=0,
            out_shardings=(shardings, replicated(mesh)),
        )
        evaluate = _evaluator(experiment, corpus, mesh, frozen)
        step_function = partial(step_function, frozen=frozen)
        batches = training_batches(
            corpus.sequences("train", experiment.data.length, experiment.data.rows),
            experiment.data.length,
            config.batch_size // config.accumulation,
            config.seed,
            labels=corpus.split_labels("train"),
            start=start * config.accumulation,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        with Metrics(workdir, start) as metrics:
            _loop(
                experiment, state, start, step_function, batches, evaluate, checkpoints, metrics,
                corpus, mesh, signals, log,
            )  # fmt: skip
    log(f"trained to step {config.num_steps}; now: {_next(experiment, workdir)}")


def _next(experiment: Experiment, workdir: Path) -> str:
    if getattr(experiment.process, "needs_labels", False):
        return f"python -m experiments.sample --workdir RUN --classifier {workdir} --label NAME"
    then = "sample" if experiment.process.likelihood == "none" else "evaluate"
    return f"python -m experiments.{then} --workdir {workdir}"


def _loop(
    experiment, state, start, step_function, batches, evaluate, checkpoints, metrics, corpus, mesh,
    signals, log,
):  # fmt: skip
    config = experiment.train
    meter = _Meter(experiment, start, log)
    previous = waiting = None  # of the step before: its loss, and its totals where they are logged

    def save(step, metric):
        meter.check(step, jax.device_get(state["totals"]))
        checkpoints.save(step, state, _meta(experiment, corpus, step), metric)

    for step in range(start + 1, config.num_steps + 1):
        microbatches = [next(batches) for _ in range(config.accumulation)]
        batch = jax.tree.map(
            lambda *rows: global_batch(mesh, np.stack(rows), axis=1), *microbatches
        )
        state, loss = step_function(state, *batch)
        # This step runs; now read what the one before measured, and wait for it, so that the host
        # is one step ahead and no more.
        if waiting is not None:
            metrics.write(*meter.read(*waiting))
            waiting = None
        if previous is not None:
            previous.block_until_ready()
        previous = loss
        if step % config.log_every == 0:
            waiting = step, state["totals"]
            state = {**state, "totals": jax.device_put(zero_totals(), replicated(mesh))}
        evaluating = step % config.eval_every == 0
        last = step == config.num_steps
        if not (evaluating or last or signals.received or step % config.checkpoint_every == 0):
            continue
        if waiting is not None:
            metrics.write(*meter.read(*waiting))
            waiting = None
        value = None
        with meter.paused():
            if evaluating:
                values = evaluate(state["ema"])
                metrics.write(step, values)
                name, value = next(iter(values.items()))
                error = values[f"{name}_se"]
                what, unit = name.removeprefix("eval/").replace("_per_", "/").split("_")
                if experiment.process.likelihood == "exact":
                    what = "exact likelihood"
                log(
                    f"step {step}: validation {what} {value:.4f} +- {error:.4f} {unit} (EMA, on a "
                    "sample)"
                )
            save(step, value)
        if signals.received and not last:
            checkpoints.wait()
            raise Stopped(
                f"stopped by {signals.received.name} after step {step}, which is saved; "
                "the same command continues it",
                signals.received,
            )


class _Signals:
    """Notes SIGINT and SIGTERM, so that the loop can save first; a second one acts at once."""

    def __init__(self):
        self.received = None

    def __enter__(self):
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self.received = signal.Signals(number)
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, signal.SIG_DFL)


class _Meter:
    """Turns the totals of an interval into metrics and a line of progress."""

    def __init__(self, experiment, start, log):
        self.config, self.log = experiment.train, log
        self.tokens_per_step = experiment.train.batch_size * experiment.data.length
        self.rate = learning_rate(experiment.optimizer)
        self.read_at, self.since, self.steps_since = start, None, 0

    def paused(self):
        return _Paused(self)

    def check(self, step, totals):
        if not math.isfinite(totals["loss"] + totals["grad_norm"]):
            what = "loss" if not math.isfinite(totals["loss"]) else "gradient norm"
            first = step - int(totals["steps"]) + 1
            raise Diverged(
                f"the {what} is not finite somewhere in steps {first} to {step}; nothing of it is "
                "saved; lower optimizer.peak_lr or raise optimizer.warmup_steps and run again"
            )

    def read(self, step, totals):
        """(step, metrics) from the totals at the end of the interval."""
        totals = jax.device_get(totals)
        self.check(step, totals)
        now, count = time.perf_counter(), float(totals["steps"])
        steps = step - self.read_at
        values = {
            "train/loss_nats_per_token": float(totals["loss"]) / count,
            "train/grad_norm": float(totals["grad_norm"]) / count,
            "train/learning_rate": float(self.rate(step - 1)),
            "train/tokens": step * self.tokens_per_step,
        }
        line = (
            f"step {step}/{self.config.num_steps}  loss {values['train/loss_nats_per_token']:.4f}"
        )
        if self.since is not None and steps > 0:
            speed = steps / (now - self.since)
            values["perf/tokens_per_s"] = speed * self.tokens_per_step
            left = (self.config.num_steps - step) / speed
            line += f"  {values['perf/tokens_per_s']:,.0f} tokens/s  {_duration(left)} left"
        self.read_at, self.since = step, now
        self.log(line)
        return step, values


class _Paused:
    """Takes the time inside out of the meter's clock."""

    def __init__(self, meter):
        self.meter = meter

    def __enter__(self):
        self.start = time.perf_counter()

    def __exit__(self, *error):
        if self.meter.since is not None:
            self.meter.since += time.perf_counter() - self.start


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


def check_batch(config: Train, mesh) -> None:
    """Nothing; UserError where a microbatch cannot be spread over the mesh."""
    microbatch, shards = config.batch_size // config.accumulation, batch_shards(mesh)
    if microbatch % shards:
        raise UserError(
            f"train.batch_size / train.accumulation = {microbatch} sequences cannot be divided over "
            f"{shards} devices of the batch axes; choose a multiple, or set mesh.data and mesh.fsdp"
        )


def check_workdir(workdir: Path, experiment: Experiment) -> None:
    """Nothing; UserError where `workdir` cannot hold a run of the (resolved) experiment."""
    path = workdir / "config.json"
    if path.exists():
        try:
            stored = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); restore or remove it") from error
        if stored != encode(experiment):
            changed = differences(decode(stored, str(path)), experiment)
            if changed:
                raise UserError(
                    f"workdir {workdir} holds a run of another config ({'; '.join(changed[:4])}); "
                    "give another --workdir, or the settings of the run"
                )
    elif workdir.exists() and not workdir.is_dir():
        raise UserError(f"workdir {workdir} is a file; give a directory")


def _claim(workdir: Path, experiment: Experiment) -> None:
    """Writes config.json; UserError where `workdir` holds a run of another config."""
    check_workdir(workdir, experiment)
    if jax.process_index() == 0:
        if isinstance(experiment.data.tokenizer, Subwords):
            experiment.data.tokenizer.copy(workdir / TOKENIZER)
        text = json.dumps(encode(experiment), indent=1) + "\n"
        write_atomically(workdir / "config.json", text)


def _state(experiment, checkpoints, corpus: Corpus, mesh, begin: dict | None):
    """(state, its shardings, step), fresh (with the parameters of `begin` where it has some) or of the
    newest checkpoint."""
    abstract = jax.eval_shape(lambda: init_state(experiment))
    shardings = tree_shardings(mesh, abstract)
    step = checkpoints.latest()
    if step is None:
        fresh = jax.jit(lambda begin: init_state(experiment, begin), out_shardings=shardings)(begin)
        return fresh, shardings, 0
    data = checkpoints.meta(step)["data"]
    if data["train_sha256"] != corpus.sha256["train"]:
        raise UserError(
            f"the run in {checkpoints.directory.parent} was trained on other text than {corpus.source} "
            "now gives; give it the same data, or another --workdir"
        )
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )
    return checkpoints.restore(step, like), shardings, step


def _meta(experiment: Experiment, corpus: Corpus, step: int) -> dict:
    return {
        "config": encode(experiment),
        "data": {
            "next_example": step * experiment.train.batch_size,
            "source": corpus.source,
            "train_sha256": corpus.sha256["train"],
        },
        "version": version("ddlm"),
    }


def _evaluator(experiment: Experiment, corpus: Corpus, mesh, frozen: dict | None):
    """evaluate(params) -> metrics on a fixed sample of the validation split: of the bound, or of
    the loss where the process has no bound or a costly one. The first is what checkpoints are ranked by.
    """
    text, labels = sequences(experiment, corpus, "validation", experiment.evaluation.max_sequences)
    characters, _ = spelled(corpus, "validation", text)
    quantity = experiment.process.monitor
    bound = make_bound(
        experiment, times_per_sequence(experiment), experiment.train.seed, mesh, quantity
    )

    def evaluate(params):
        result, _ = estimate(
            experiment, bound, params, text, mesh, characters, frozen=frozen, labels=labels
        )
        if quantity == "loss":
            error = result.standard_error()
            loss = result.nats_per_token
            return {"eval/loss_nats_per_token": loss, "eval/loss_nats_per_token_se": error}
        return {
            "eval/bound_bits_per_char": result.bits_per_character,
            "eval/bound_bits_per_char_se": result.to_bits_per_character(result.standard_error()),
            "eval/bound_nats_per_token": result.nats_per_token,
        }

    return evaluate


def _summary(experiment: Experiment, corpus: Corpus, state, start: int) -> str:
    sizes = ", ".join(f"{name} {b - a:,}" for name, (a, b) in corpus.bounds.items())
    name = type(experiment.process).__name__
    return (
        f"{name}, {num_parameters(state['params']):,} parameters, {jax.device_count()} x "
        f"{jax.devices()[0].device_kind}\n{corpus.source}: {sizes} tokens of "
        f"{experiment.process.vocab_size}\n"
        + (f"labels: {', '.join(corpus.label_names)}\n" if corpus.labels else "")
        + (f"continuing after step {start}" if start else "starting")
    )
