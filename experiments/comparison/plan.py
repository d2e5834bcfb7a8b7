"""What a comparison is to do, and the check that its methods get the same budget.

Everything that can be known to be wrong is found here, before the first run. The experiments may differ
in process and sampler; whatever else differs would make the comparison one of something else.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from experiments.config import Evaluation, Experiment
from experiments.data.corpus import Corpus
from experiments.data.text import prepare
from experiments.errors import UserError
from experiments.evaluation.estimators import check_bound
from experiments.overrides import (
    differences,
    leaves,
    load,
    override,
    resolve,
)
from experiments.training.checkpoints import Checkpoints
from experiments.training.teacher import load_teacher
from experiments.training.workdir import check_workdir
from models.backbone import num_parameters


@dataclass(frozen=True)
class Method:
    """A run of the comparison: a config with the overrides and a seed applied; name: of its row, the
    same for all seeds; directory: of the run; resolved: with what the data fills in; cost: of its
    training, in any unit."""

    name: str
    directory: Path
    experiment: Experiment
    resolved: Experiment
    cost: float = 1.0


@dataclass(frozen=True)
class Plan:
    """All that is decided before the first run. methods: the runs in their order, of each seed all
    configs before the next seed. evaluation: that of the final values."""

    workdir: Path
    methods: list[Method]
    corpus: Corpus
    split: str
    evaluation: Evaluation


def make_plan(
    workdir: Path,
    configs: Sequence[str],
    overrides: Sequence[str],
    split: str,
    num_times: int | None = None,
    batch_size: int | None = None,
    seeds: int = 1,
) -> Plan:
    """The plan of a comparison; UserError for all that can be known to be wrong before training.

    num_times and batch_size replace the configs' own for the final evaluation. seeds: how many runs of
    each config, with its own train.seed and the next ones. Nothing in `workdir` is written.
    """
    experiments = _experiments(configs, overrides)
    for name, experiment in experiments.items():
        check_alone(name, experiment)
    _check_budget(experiments)
    first = next(iter(experiments.values()))
    corpus = prepare(first.data)
    least = first.data.length if first.data.rows == "wrap" else 1
    for name in ("train", "validation", split):
        corpus.check_split(name, least)
    methods = [
        method(workdir, name, experiment, corpus, number)
        for number in range(seeds)
        for name, experiment in experiments.items()
    ]
    _check_apart(methods)
    replaced = {"num_times": num_times, "batch_size": batch_size}
    evaluation = replace(first.evaluation, **{k: v for k, v in replaced.items() if v is not None})
    return Plan(workdir, methods, corpus, split, evaluation)


def check_alone(name: str, experiment: Experiment) -> None:
    """Nothing; UserError where the experiment, of that name, starts from another run."""
    if experiment.energy is not None or experiment.init_from:
        raise UserError(
            f"{name} starts from another run, so its budget is not equal; train it separately "
            "and compare its records, or use python -m experiments.studies.few_steps"
        )


def method(
    workdir: Path, name: str, experiment: Experiment, corpus: Corpus, number: int = 0
) -> Method:
    """The run of an experiment at its seed plus `number`; UserError where it has no bound, or its
    directory in `workdir` holds another run."""
    directory = workdir / name
    if number:
        seed = experiment.train.seed + number
        experiment = override(experiment, [f"train.seed={seed}"])
        directory = workdir / f"{name}.seed{seed}"
    resolved = resolve(experiment, corpus.tokenizer, corpus.training_tokens, corpus.label_names)
    resolved, _ = load_teacher(resolved)
    check_bound(resolved)
    _check_run(directory, resolved)
    return Method(name, directory, experiment, resolved)


def budget(plan: Plan) -> str:
    """One line that says what all methods have in common."""
    experiment = plan.methods[0].resolved
    config = experiment.train
    size = num_parameters(jax.eval_shape(experiment.model.init, jax.random.key(0)))
    times = plan.evaluation.num_times
    seeds = len({method.resolved.train.seed for method in plan.methods})
    return (
        f"model of {size:,} parameters, {config.num_steps:,} steps of {config.batch_size} x "
        f"{experiment.data.length} tokens of {plan.corpus.source}; {plan.split} split, "
        f"{times} time sample{'s' if times > 1 else ''} a sequence, checkpoint {config.num_steps}"
        + (f"; {seeds} seeds" if seeds > 1 else "")
    )


def _experiments(configs: Sequence[str], overrides: Sequence[str]) -> dict[str, Experiment]:
    """The experiments by name, with the overrides applied."""
    if len(configs) < 2:
        raise UserError("a comparison needs at least two configs; repeat --config")
    names = [_name(config) for config in configs]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        same = ", ".join(c for c, name in zip(configs, names, strict=True) if name == twice[0])
        raise UserError(f"two configs would both be named {twice[0]} ({same}); rename a file")
    experiments = {}
    for name, config in zip(names, configs, strict=True):
        try:
            experiments[name] = load(config, overrides)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    return experiments


def _name(config: str) -> str:
    """The path within configs/, joined by '-', or the stem of a file elsewhere."""
    path = Path(config).resolve()
    for root in (Path("configs").resolve(), Path(__file__).resolve().parents[2] / "configs"):
        if path.is_relative_to(root):
            return "-".join(path.relative_to(root).with_suffix("").parts)
    return path.stem


def _check_run(directory: Path, experiment: Experiment) -> None:
    """Nothing; UserError where the run directory holds another run, or one that went further."""
    check_workdir(directory, experiment)
    step, last = Checkpoints(directory / "checkpoints").latest(), experiment.train.num_steps
    if step is not None and step > last:
        raise UserError(
            f"{directory} is at step {step} already, beyond train.num_steps = {last}; give "
            f"--set train.num_steps={step}, or another --workdir"
        )


def _check_apart(methods: Sequence[Method]) -> None:
    """Nothing; UserError where two runs would be in one directory."""
    counts = Counter(method.directory.name for method in methods)
    for name, count in counts.items():
        if count > 1:
            raise UserError(f"two runs would both be named {name}; rename a config file")


def _check_budget(experiments: dict[str, Experiment]) -> None:
    first, *others = experiments
    changed: dict[str, str] = {}
    unequal = []
    for other in others:
        differing = _unequal(experiments[first], experiments[other])
        changed |= {path: values for path, values in differing.items() if path not in changed}
        unequal += [other] if differing else []
    if unequal:
        settings = [f"{path}: {values}" for path, values in changed.items()]
        more = f" and {len(settings) - 4} more" if len(settings) > 4 else ""
        path = next(iter(changed))
        raise UserError(
            f"{first} and {', '.join(unequal)} differ in more than process and sampler "
            f"({'; '.join(settings[:4])}{more}); make them equal with --set {path}=VALUE"
        )


def _unequal(first: Experiment, other: Experiment) -> dict[str, str]:
    """What differs outside process and sampler: by path, both values as "first -> other"."""
    other = replace(other, process=first.process, sampler=first.sampler)
    a, b = leaves(first), leaves(other)
    # `differences` leaves out what a run may change when it continues.
    return differences(first, other) | {
        p: f"{a[p]!r} -> {b[p]!r}" for p in a if p in b and a[p] != b[p]
    }
