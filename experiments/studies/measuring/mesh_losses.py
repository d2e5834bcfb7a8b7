"""The same training steps and the same evaluation on one device and on meshes of several, compared.

State and batches are placed as `experiments.training.trainer` places them; every parameter begins with
noise on top of what is drawn: layers that begin as zeros would keep others from taking part.
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

from diffusion.process import Likelihood
from experiments.config import Experiment, Mesh
from experiments.data.pipeline import training_batches
from experiments.data.text import prepare
from experiments.devices.sharding import global_batch, make_mesh, replicated, tree_shardings
from experiments.errors import UserError
from experiments.evaluation.bound import estimate, sequences
from experiments.evaluation.estimators import make_bound, times_per_sequence
from experiments.optimization.optimizer import hidden_matrices
from experiments.overrides import load, override, resolve
from experiments.training.digests import leaves
from experiments.training.initial import load_initial
from experiments.training.teacher import load_teacher
from experiments.training.train_step import init_state, make_train_step
from experiments.training.trainer import check_batch, train

# Rows, heads, width and the MLP's width divide by 8. Dropout, so that its draws are compared too. Adam
# divides by the size of the gradient: where that is nearly 0, an eps of 1e-8 makes steps of rounding.
SETTINGS = (
    "model.num_layers=1", "model.width=32", "model.num_heads=8", "model.condition_width=16",
    "model.dropout=0.1", "data.length=16", "train.batch_size=8", "optimizer.schedule.warmup_steps=0",
    "optimizer.eps=1e-3", "evaluation.num_times=2", "evaluation.batch_size=8",
    "evaluation.max_sequences=8",
)  # fmt: skip
# The runs that objectives of two networks begin with, by the setting that names them.
_BASES = {
    "init_from": "configs/sotu/mdlm.py",
    "energy_from": "configs/sotu/autoregressive.py",
    "teacher.workdir": "configs/sotu/dirichlet.py",
}
_NOISE = 0.1


@dataclass(frozen=True)
class Outcome:
    """What came out on one mesh. losses: (steps,) nats per token; nats: (N, K) of the evaluation; drawn,
    params, moments: on the host, before the first step and after the last one; share: of the bytes of
    the state, those on one device; flops: those of a step on one device; whole: what is not split."""

    losses: np.ndarray
    nats: np.ndarray
    drawn: dict
    params: dict
    moments: list[np.ndarray]
    share: float
    flops: float
    whole: tuple[str, ...]
    length: int


@dataclass(frozen=True)
class Difference:
    """Between what came out on two meshes: of each loss, and of the evaluation of each sequence,
    relative to it; of parameters and of the gradients' running mean the norm of the difference of an
    array, relative to the array's; drawn: the greatest difference of a parameter before training."""

    loss: float
    evaluation: float
    params: float
    gradients: float
    drawn: float


def differences(outcome: Outcome, one: Outcome) -> Difference:
    """What `outcome` differs by from `one`, nan where one of them is not finite."""
    pairs = zip(jax.tree.leaves(outcome.drawn), jax.tree.leaves(one.drawn), strict=True)
    return Difference(
        loss=_greatest(abs(outcome.losses - one.losses) / abs(one.losses)),
        evaluation=_greatest(abs(outcome.nats - one.nats) / abs(one.nats).mean()),
        params=_apart(jax.tree.leaves(outcome.params), jax.tree.leaves(one.params)),
        gradients=_apart(outcome.moments, one.moments),
        drawn=_greatest(np.array([abs(a - b).max() for a, b in pairs])),
    )


def _apart(arrays: Sequence[np.ndarray], one: Sequence[np.ndarray]) -> float:
    norm = np.linalg.norm
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(arrays, one, strict=True)
    ]
    # Of an array that is zeros the difference itself.
    return _greatest(np.array([norm((a - b).ravel()) / (norm(b.ravel()) or 1) for a, b in pairs]))


def _greatest(values: np.ndarray) -> float:
    return float(np.max(values, initial=0.0))  # nan where there is one


@dataclass(frozen=True)
class Row:
    """What came out for one config: on one device first, then on each mesh. alike: it has the settings
    of one device on all of them."""

    name: str
    outcomes: list[Outcome]
    alike: bool = True

    @property
    def differences(self) -> list[Difference]:
        """Of each mesh from the one device."""
        return [differences(outcome, self.outcomes[0]) for outcome in self.outcomes[1:]]

    @property
    def evaluation(self) -> float:
        """Nats per token of one device."""
        return float(self.outcomes[0].nats.mean() / self.outcomes[0].length)

    def greatest(self, name: str) -> float:
        """The greatest difference over the meshes; nan where there is one."""
        return _greatest(np.array([getattr(d, name) for d in self.differences]))

    def faults(self, meshes: Sequence[str], limits: dict[str, float]) -> list[str]:
        """What exceeds its limit or is not split, in words."""
        faults = []
        for mesh, outcome, apart in zip(meshes, self.outcomes[1:], self.differences, strict=True):
            for name, limit in limits.items():
                value = getattr(apart, name)
                if not value <= limit:
                    faults.append(
                        f"mesh {mesh}: {name} differs by {value:.2g}, more than {limit:g}"
                    )
            faults += [
                f"mesh {mesh}: {name} is not split as it should be" for name in outcome.whole
            ]
        return faults


def mesh_of(name: str) -> Mesh:
    """The mesh "2x4x1", data x fsdp x tensor; UserError where it is none."""
    if not re.fullmatch(r"[1-9]\d{0,8}(x[1-9]\d{0,8}){2}", name, re.ASCII):
        raise UserError(
            f"mesh {name}: expected DATAxFSDPxTENSOR, three whole numbers of at least 1, such as 2x4x1"
        )
    data, fsdp, tensor = map(int, name.split("x"))
    if (count := data * fsdp * tensor) > jax.device_count():
        raise UserError(f"mesh {name}: {count} devices, but there are {jax.device_count()}")
    return Mesh(data, fsdp, tensor)


def measure(
    path: str, settings: Sequence[str], meshes: Sequence[tuple[str, Sequence[str]]], steps: int
) -> list[Outcome]:
    """What comes out on each of the meshes ("1x2x1", further settings there) for the config file at
    `path`, made small by SETTINGS, with the settings."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = override(load(path, SETTINGS), settings)
        experiment = override(experiment, _bases(experiment, settings, Path(folder)))
        corpus = prepare(experiment.data)
        experiment = resolve(
            experiment, corpus.tokenizer, corpus.training_tokens, corpus.label_names
        )
        experiment, frozen = load_teacher(experiment)
        experiment, begin = load_initial(experiment, Path(folder) / "none", lambda line: None)
        frozen, begin = jax.device_get((frozen, begin))
    if experiment.teacher and experiment.teacher.start_from:
        begin = frozen
    frozen = frozen and _noisy(frozen, 1)
    outcomes = []
    for name, extra in meshes:
        config = mesh_of(name)
        devices = jax.devices()[: config.data * config.fsdp * config.tensor]
        on_mesh = override(replace(experiment, mesh=config), extra)
        outcomes.append(_measure(on_mesh, corpus, steps, make_mesh(config, devices), begin, frozen))
    return outcomes


def _bases(experiment: Experiment, settings: Sequence[str], folder: Path) -> list[str]:
    """Settings that name new runs of `folder`, of no steps, for what begins with others."""
    needed = []
    if experiment.energy is not None:
        needed.append("init_from")
        if experiment.energy.output == "tokens":
            needed.append("energy_from")
    if experiment.teacher is not None:
        needed.append("teacher.workdir")
    for setting in needed:
        base = load(_BASES[setting], [*SETTINGS, *settings, "train.num_steps=0"])
        train(base, folder / setting, log=lambda line: None)
    return [f"{setting}={folder / setting}" for setting in needed]


def _measure(experiment: Experiment, corpus, steps: int, mesh, begin, frozen) -> Outcome:
    check_batch(experiment.train, mesh)
    if frozen is not None:
        roles = experiment.teacher_roles()
        frozen = jax.device_put(frozen, tree_shardings(mesh, frozen, roles))
    roles = experiment.roles()
    shardings = tree_shardings(mesh, jax.eval_shape(lambda: init_state(experiment)), roles)
    state = jax.jit(partial(init_state, experiment), out_shardings=shardings)(begin)
    drawn = jax.device_get(state["params"])
    state |= {name: jax.device_put(_noisy(drawn, 0), shardings[name]) for name in ("params", "ema")}
    step = jax.jit(
        make_train_step(experiment, mesh),
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
    )
    losses, flops = [], 0.0
    batches = _batches(experiment, corpus)
    for _ in range(steps if experiment.train.num_steps else 0):
        microbatches = [next(batches) for _ in range(experiment.train.accumulation)]
        batch = jax.tree.map(
            lambda *rows: global_batch(mesh, np.stack(rows), axis=1), *microbatches
        )
        if not losses:
            compiled = step.lower(state, *batch, frozen=frozen).compile()
            flops = (compiled.cost_analysis() or {})["flops"]
        state, loss = compiled(state, *batch, frozen=frozen)
        losses.append(float(loss))
    return Outcome(
        losses=np.array(losses),
        nats=_evaluated(experiment, corpus, state["ema"], mesh, frozen),
        drawn=drawn,
        params=jax.device_get(state["params"]),
        moments=jax.device_get(
            [leaf for name, leaf in leaves(state["optimizer"]).items() if "/mu/" in name]
        ),
        share=_bytes(state, local=True) / _bytes(state, local=False),
        flops=flops,
        whole=tuple(not_split(state, mesh, roles)),
        length=experiment.data.length,
    )


def not_split(state: dict, mesh: jax.sharding.Mesh, roles: dict) -> list[str]:
    """The hidden matrices that devices do not hold just their part of, and the averages and moments that
    are not placed as their parameter is."""
    parts, whole = mesh.shape["fsdp"] * mesh.shape["tensor"], []
    every, hidden = leaves(state), leaves(hidden_matrices(roles))
    for name, leaf in leaves(state["params"]).items():
        own = leaf.addressable_shards[0].data.size
        if hidden[name] and own * parts != leaf.size:
            whole.append(f"params/{name}")
        whole += [
            other
            for other, array in every.items()
            if other.endswith(f"/{name}")
            and not array.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
        ]
    return whole


def _bytes(state: dict, local: bool) -> int:
    return sum(
        (leaf.addressable_shards[0].data if local else leaf).nbytes
        for leaf in jax.tree.leaves(state)
    )


def _noisy(params: dict, seed: int) -> dict:
    """The parameters with noise that depends on nothing but the seed and their place."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: (leaf + _NOISE * rng.normal(size=leaf.shape)).astype(leaf.dtype), params
    )


def _batches(experiment: Experiment, corpus):
    config = experiment.train
    return training_batches(
        corpus.training_text(experiment.data.length, experiment.data.rows),
        experiment.data.length,
        config.batch_size // config.accumulation,
        config.seed,
        labels=corpus.split_labels("train"),
    )


def _evaluated(experiment: Experiment, corpus, params: dict, mesh, frozen) -> np.ndarray:
    """nats (N, K) of validation text: of the bound, or of the loss where there is none."""
    text, labels = sequences(experiment, corpus, "validation", experiment.evaluation.max_sequences)
    quantity = "bound" if isinstance(experiment.process, Likelihood) else "loss"
    times = times_per_sequence(experiment)
    bound = make_bound(experiment, times, experiment.train.seed, mesh, quantity)
    result, _ = estimate(experiment, bound, params, text, mesh, 1, frozen=frozen, labels=labels)
    return result.nats
