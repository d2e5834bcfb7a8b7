"""A run that is fine-tuned by rewards: its prompts, the loop, and what is kept of it."""

import runpy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.corpus import Corpus
from experiments.data.pairs import PairRows
from experiments.data.text import prepare
from experiments.errors import UserError
from experiments.evaluation.bound import sequences
from experiments.overrides import override
from experiments.progress import Progress
from experiments.run import Run, load_run
from experiments.sampling.samples import with_steps
from experiments.serialization import encode
from experiments.studies.measuring.policy_gradient import (
    Estimate,
    Prompts,
    Reward,
    advantages,
    check,
    gradient_spread,
    make_update,
)
from experiments.training.checkpoints import Checkpoints
from experiments.training.metrics import Metrics
from experiments.training.workdir import check_workdir, claim, one_writer

Log = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How a run is fine-tuned, as the options of the command have it."""

    estimate: Estimate = Estimate()
    iterations: int = 200
    prompts: int = 16
    answers: int = 8
    kl: float = 0.0
    seed: int = 0
    test: int = 256
    save_every: int = 50

    def described(self) -> dict:
        """What decides the steps: all but how many there are, and what is told and kept of them."""
        told = ("iterations", "test", "save_every")
        return {name: value for name, value in asdict(self).items() if name not in told}


@dataclass(frozen=True)
class Task:
    """A run with the prompts of its splits. run: with the optimiser and sampler of the study."""

    run: Run
    corpus: Corpus
    reward: Reward
    reward_sha256: str | None

    def prompts(self, split: str, most: int | None = None) -> Prompts:
        """Those of a split, all or at most so many at equal distances."""
        if most is None:
            data = self.run.experiment.data
            rows = self.corpus.sequences(split, data.length, data.rows)
        else:
            rows, _ = sequences(self.run.experiment, self.corpus, split, most)
        assert isinstance(rows, PairRows)
        return Prompts(self.run, rows, self.reward)


def opened(
    workdir: str, reward: str | None, steps: int | None, overrides: Sequence[str], log: Log
) -> Task:
    """The task of a run; reward: a file, None for the reference answer alone."""
    run = load_run(workdir)
    check(run.experiment, f"--run {workdir}")
    experiment = override(run.experiment, overrides)
    experiment = with_steps(experiment, steps) if steps else experiment
    log(f"{workdir}: {type(experiment.process).__name__}, step {run.step}")
    run = replace(run, experiment=replace(experiment, init_from=""))
    function = read_reward(reward) if reward else exact
    digest = sha256(Path(reward).read_bytes()).hexdigest() if reward else None
    return Task(run, prepare(experiment.data), function, digest)


def exact(prompt: str, answer: str, reference: str) -> float:
    """1 for the reference, else 0."""
    return float(answer == reference)


def read_reward(path: str) -> Reward:
    """The function `reward` of a Python file; UserError where there is none."""
    if not Path(path).is_file():
        raise UserError("does not exist", "give a Python file", f"--reward {path}")
    try:
        function: Any = runpy.run_path(path).get("reward")
    except Exception as error:  # whatever the user's Python raises is the user's to put right
        raise UserError(f"--reward {path}: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise UserError("must define reward(prompt, answer, reference)", about=f"--reward {path}")

    def reward(prompt: str, answer: str, reference: str) -> float:
        try:
            value = float(function(prompt, answer, reference))  # pyright: ignore[reportArgumentType]
        except Exception as error:
            what = f"reward({prompt!r}, {answer!r}, {reference!r}): {type(error).__name__}: {error}"
            raise UserError(what, about=f"--reward {path}") from error
        if not np.isfinite(value):
            what = f"reward({prompt!r}, {answer!r}, {reference!r}) = {value} must be finite"
            raise UserError(what, about=f"--reward {path}")
        return value

    return reward


def draw_batch(
    prompts: Prompts, sample: Callable, params: dict, plan: Plan, iteration: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens (P, G, L), known (P, G, L), rewards (P, G)) of one iteration; the seed and its number
    decide them."""
    random = np.random.default_rng((plan.seed, iteration))
    numbers = np.repeat(random.integers(len(prompts.rows), size=plan.prompts), plan.answers)
    tokens, known = prompts.batch(numbers)
    count = len(numbers)
    draws = np.arange(iteration * count, (iteration + 1) * count, dtype=np.int32)
    drawn = np.asarray(sample(params, plan.seed, draws, np.where(known, tokens, -1)))
    shape = (plan.prompts, plan.answers)
    rewards = prompts.rewards(numbers, drawn).reshape(shape)
    return drawn.reshape(*shape, -1), known.reshape(*shape, -1), rewards


def mean_reward(
    prompts: Prompts, sample: Callable, params: dict, batch: int, log: Log
) -> tuple[float, float]:
    """(mean, standard error) over prompts, of one answer to each."""
    count, values = len(prompts.rows), []
    with Progress(log, "test prompts") as progress:
        for first in range(0, count, batch):
            # The last batch is filled up, so that one program draws all.
            numbers = np.minimum(np.arange(first, first + batch), count - 1)
            tokens, known = prompts.batch(numbers)
            draws = np.arange(first, first + batch, dtype=np.int32)
            drawn = np.asarray(sample(params, 2**31 - 1, draws, np.where(known, tokens, -1)))
            values.append(prompts.rewards(numbers, drawn)[: count - first])
            progress(min(first + batch, count), count)
    every = np.concatenate(values)
    return float(every.mean()), float(every.std(ddof=1) / len(every) ** 0.5)


def train(task: Task, plan: Plan, workdir: Path, log: Log) -> None:
    """Nothing; the run in `workdir` is trained to the end of the plan, from where it is."""
    run, training, test = task.run, task.prompts("train"), task.prompts("test", plan.test)
    of_run = replace(run.experiment.train, num_steps=plan.iterations)
    experiment = replace(run.experiment, train=of_run)
    check_workdir(workdir, experiment)
    update, optimizer = make_update(experiment, plan.estimate, plan.kl, run.params)
    sample, batch = training.sampler(), plan.prompts * plan.answers
    state = {
        "ema": jax.tree.map(jnp.copy, run.params),
        "optimizer": optimizer.init(run.params),
        "step": jnp.zeros((), jnp.int32),
    }
    meta = {
        "config": encode(experiment),
        "data": {"source": task.corpus.source, "train_sha256": task.corpus.sha256["train"]},
        "rewarded": plan.described() | {"reward_sha256": task.reward_sha256},
        "version": version("ddlm"),
    }

    def tested(params):
        value, error = mean_reward(test, sample, params, batch, log)
        return f"{value:.3f} +- {error:.3f} over {len(test.rows):,} test prompts"

    log(f"reward before: {tested(run.params)}")  # where a reward fails, nothing is written yet
    with one_writer(workdir, log):
        claim(workdir, experiment)
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            start = checkpoints.latest() or 0
            if start:
                _check_same(checkpoints.meta(start).get("rewarded"), meta["rewarded"], workdir)
                like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
                state = checkpoints.restore(start, like)
            log(f"continuing after step {start}" if start else "starting")
            told = Progress(log, "iterations")
            with Metrics(workdir, start, log) as metrics, told as progress:
                for iteration in range(start, plan.iterations):
                    drawn = draw_batch(training, sample, state["ema"], plan, iteration)
                    state, figures = update(state, plan.seed, *drawn, run.params)
                    done = iteration + 1
                    metrics.write(done, {k: float(v) for k, v in figures.items()})
                    if done % plan.save_every == 0 or done == plan.iterations:
                        checkpoints.save(done, state, meta)
                        progress.say(
                            f"step {done}/{plan.iterations}  reward {float(figures['reward']):.3f}  "
                            f"gradient norm {float(figures['grad_norm']):.3g}"
                        )
                    progress(done - start, plan.iterations - start)
            log(f"reward after: {tested(state['ema'])}")
    log(f"trained to step {int(state['step'])}; now: ddlm score --workdir {workdir}")


def _check_same(stored: dict | None, asked: dict, workdir: Path) -> None:
    """Nothing; UserError where the run in `workdir` was not rewarded as is asked now."""
    if stored == asked:
        return
    stored = stored or {}
    changed = [
        f"{name} {stored.get(name)} -> {value}"
        for name, value in asked.items()
        if stored.get(name) != value
    ]
    raise UserError(
        f"workdir {workdir} holds a run that was rewarded otherwise: {', '.join(changed)}; give the "
        "same options and reward, or another --workdir"
    )


ESTIMATES = (
    Estimate("one_step"),
    Estimate("bound", 1),
    Estimate("bound", 1, shared=True),
    Estimate("bound", 4),
    Estimate("bound", 4, shared=True),
    Estimate("bound", 16),
)


def measure(task: Task, plan: Plan, log: Log, draws: int = 32) -> list[dict]:
    """What `gradient_spread` says of each estimate, for the answers of one iteration."""
    prompts = task.prompts("train")
    drawn = draw_batch(prompts, prompts.sampler(), task.run.params, plan, 0)
    tokens, known, rewards = map(jnp.asarray, drawn)
    advantage = advantages(rewards)
    rows = []
    with Progress(log, "estimates") as progress:
        for number, estimate in enumerate(ESTIMATES, 1):
            spread = gradient_spread(
                task.run.experiment, estimate, task.run.params, tokens, known, advantage, draws
            )
            rows.append(vars(estimate) | spread)
            progress(number, len(ESTIMATES))
    return rows


def table(rows: list[dict]) -> str:
    """The rows as Markdown."""
    lines = [
        "| estimate | network calls | -log p, nats an answer | its noise | noise of the gradient |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        calls = row["num_times"] if row["kind"] == "bound" else 1
        name = row["kind"] + (", shared" if row["shared"] else "")
        lines.append(
            f"| {name} | {calls} | {row['nats']:.3f} | {row['noise_nats']:.3f} | {row['noise']:.2f} |"
        )
    return "\n".join(lines)
