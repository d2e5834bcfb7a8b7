"""A ladder: one config at several sizes of its network, each trained with the same FLOPs, for each of
several budgets of FLOPs.

A size LAYERSxWIDTH keeps the width of a head. A budget C trains a size for C / c steps, where c is what
one of its training steps multiplies and adds in matrix products (`experiments.planning.flops`), forward
and backward, the optimiser's among them. What the learning rate counts in steps is in proportion to the
steps of the run, so that each run is a whole one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import jax

from experiments.comparison.plan import Method, Plan, check_alone, method
from experiments.config import Experiment
from experiments.data.corpus import Corpus
from experiments.data.text import prepare
from experiments.devices.sharding import make_mesh
from experiments.errors import UserError
from experiments.overrides import load, override, resolve
from experiments.planning.compiled import trace_train
from experiments.planning.flops import program_flops
from models.roles import Role, Table

_SCALED = ("num_heads", "num_key_heads", "mlp_width")  # with the width
_STEPS = ("warmup_steps", "stable_steps", "decay_steps")  # of a learning rate


@dataclass(frozen=True)
class Rung:
    """A run of a ladder. size: as it was given; budget: FLOPs asked for; parameters: without tables that
    are looked up; step_flops: of a training step."""

    size: str
    budget: float
    parameters: int
    step_flops: int
    method: Method

    @property
    def steps(self) -> int:
        """Of the training."""
        return self.method.experiment.train.num_steps

    @property
    def flops(self) -> int:
        """Of the training."""
        return self.steps * self.step_flops

    @property
    def tokens(self) -> int:
        """Positions that are trained on, as often as they are."""
        experiment = self.method.experiment
        return self.steps * experiment.train.batch_size * experiment.data.length


@dataclass(frozen=True)
class Ladder:
    """The rungs, those of a budget together, and the plan that trains and evaluates their runs."""

    rungs: list[Rung]
    plan: Plan


def make_ladder(
    workdir: Path,
    config: str,
    overrides: Sequence[str],
    sizes: Sequence[str],
    budgets: Sequence[float],
    split: str,
) -> Ladder:
    """The ladder of a config file; UserError for all that can be known to be wrong before training.
    Nothing in `workdir` is written."""
    base = load(config, overrides)
    check_alone("this config", base)
    if base.teacher is not None:
        raise UserError(
            "this config uses the network of another run (teacher), whose FLOPs are not counted; "
            "choose a config without"
        )
    corpus = prepare(base.data)
    least = base.data.length if base.data.rows == "wrap" else 1
    for name in ("train", "validation", split):
        corpus.check_split(name, least)
    measured = {}
    for size in sizes:
        changes = size_overrides(base, size)
        resolved = _resolved(override(base, changes), corpus)
        measured[size] = changes, _parameters(resolved), _step_flops(resolved)
    rungs = []
    for budget in {f"{budget:g}": budget for budget in budgets}.values():
        for size, (changes, parameters, flops) in measured.items():
            every = [*changes, *_step_overrides(base, size, budget, flops)]
            name = f"{size}-{budget:g}".replace("+", "")  # as a folder
            experiment = override(base, every)
            run = method(workdir, name, experiment, corpus)
            cost = float(flops * experiment.train.num_steps)
            rungs.append(Rung(size, budget, parameters, flops, replace(run, cost=cost)))
    methods = [rung.method for rung in rungs]
    return Ladder(rungs, Plan(workdir, methods, corpus, split, base.evaluation))


def size_overrides(experiment: Experiment, size: str) -> list[str]:
    """The settings of a size "LAYERSxWIDTH" as --set takes them; what goes with the width keeps its
    proportion to it. UserError where it cannot."""
    model, found = experiment.model, re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", size)
    if found is None:
        raise UserError(f"--sizes {size}: expected LAYERSxWIDTH, such as 4x128")
    names = [f.name for f in fields(model)]
    if not {"num_layers", "width"} <= set(names):
        raise UserError(
            f"--sizes {size}: {type(model).__name__} has no num_layers and width; use a config whose "
            "model is a Transformer"
        )
    layers, width = map(int, found.groups())
    own_width = vars(model)["width"]
    changes = [f"model.num_layers={layers}", f"model.width={width}"]
    for name in _SCALED:
        value = vars(model).get(name)
        if value is None:
            continue
        if value * width % own_width:
            raise UserError(
                f"--sizes {size}: model.{name} = {value} goes with width {own_width}, and the same "
                f"proportion of {width} is no whole number; choose another width"
            )
        changes.append(f"model.{name}={value * width // own_width}")
    return changes


def _step_overrides(base: Experiment, size: str, budget: float, flops: int) -> list[str]:
    """The steps that a budget pays for, and the learning rate's in proportion to them."""
    steps = round(budget / flops)
    if not 1 <= steps < 2**31:
        raise UserError(
            f"--budgets {budget:g}: a step of {size} takes {flops:.3g} FLOPs, so it pays for {steps:,} "
            "steps; choose at least a few hundred steps of every size"
        )
    share = steps / base.train.num_steps if base.train.num_steps else 1.0
    schedule = vars(base.optimizer.schedule)
    scaled = [
        f"optimizer.schedule.{name}={round(schedule[name] * share)}"
        for name in _STEPS
        if name in schedule
    ]
    return [f"train.num_steps={steps}", *scaled]


def _resolved(experiment: Experiment, corpus: Corpus) -> Experiment:
    return resolve(experiment, corpus.tokenizer, corpus.training_tokens, corpus.label_names)


def _parameters(experiment: Experiment) -> int:
    """How many there are, without tables that are looked up: they take no part in products."""
    made = jax.eval_shape(experiment.init_params, jax.random.key(0))
    sizes = jax.tree.map(lambda role, x: _counted(role, x.size), experiment.roles(), made)
    return sum(jax.tree.leaves(sizes))


def _counted(role: Role, size: int) -> int:
    return 0 if isinstance(role, Table) else size


def _step_flops(experiment: Experiment) -> int:
    return program_flops(trace_train(experiment, make_mesh(experiment.mesh)).jaxpr)
