"""The evaluations during training, by which checkpoints are ranked."""

from collections.abc import Callable
from dataclasses import dataclass

import jax

from experiments.config import Experiment
from experiments.data.corpus import Corpus
from experiments.evaluation.bound import check_estimate, estimate_parts, parts_of
from experiments.evaluation.estimators import is_exact, make_bound, times_per_sequence
from experiments.training.metrics import Metrics, NoMetrics
from experiments.training.signals import Signals

SOURCES = "eval_sources/"  # metrics of the texts of a mixture


@dataclass(frozen=True)
class Evaluate:
    """What `make_evaluate` makes. check(params), of arrays that may be described alone: UserError where
    the evaluation does not fit into memory."""

    metrics: Callable[[dict], dict[str, float]]
    check: Callable[[dict], None]

    def __call__(self, params: dict) -> dict[str, float]:
        """The metrics by name, of the parameters."""
        return self.metrics(params)


def make_evaluate(
    experiment: Experiment,
    corpus: Corpus,
    mesh: jax.sharding.Mesh,
    frozen: dict | None,
    signals: Signals,
) -> Evaluate:
    """evaluate(params) -> metrics on a fixed sample of the validation split: of the bound, or of
    the loss where the process has no bound or a costly one. The first is what checkpoints are ranked by.
    Interrupted after a signal.
    """
    parts = parts_of(experiment, corpus, "validation", experiment.evaluation.max_sequences)
    quantity = experiment.process.monitor
    bound = make_bound(
        experiment, times_per_sequence(experiment), experiment.train.seed, mesh, quantity
    )

    def evaluate(params):
        result, breakdown, found = estimate_parts(
            experiment, bound, params, parts, mesh, signals.check, frozen
        )
        rest = breakdown.metrics()
        if len(parts) > 1:
            of_each = zip(parts, found, strict=True)
            rest |= {f"{SOURCES}{part.source}": each.bits for part, each in of_each}
        if quantity == "loss":
            error = result.standard_error()
            loss = result.nats_per_token
            values = {"eval/loss_nats_per_token": loss, "eval/loss_nats_per_token_se": error}
            return values | rest
        name = f"eval/bound_{result.unit.replace('character', 'char').replace(' ', '_')}"
        return {
            name: result.bits,
            f"{name}_se": result.to_bits(result.standard_error()),
            "eval/bound_nats_per_token": result.nats_per_token,
        } | rest

    def check(params):
        for part in parts:
            check_estimate(experiment, bound, params, part.text, mesh, frozen, part.labels)

    return Evaluate(evaluate, check)


def evaluated(
    evaluate: Callable[[dict], dict[str, float]],
    state: dict,
    step: int,
    experiment: Experiment,
    metrics: Metrics | NoMetrics,
    log: Callable[[str], None],
) -> float:
    """What the checkpoint of this step is ranked by, after it is written and logged."""
    values = evaluate(state["ema"])
    metrics.write(step, values)
    name, value = next(iter(values.items()))
    error = values[f"{name}_se"]
    what, unit = name.removeprefix("eval/").replace("_per_", "/").split("_")
    if is_exact(experiment.process):
        what = "exact likelihood"
    whose = "EMA, on a sample" if experiment.train.ema_decay else "on a sample"
    named = (name.split("/", 1) for name in values if name.startswith(SOURCES))
    each = "".join(f"; {source} {values[f'{of}/{source}']:.4f}" for of, source in named)
    log(f"step {step}: validation {what} {value:.4f} +- {error:.4f} {unit} ({whose}){each}")
    return value
