"""An experiment: one frozen tree of dataclasses, built by a config file's `get_config()`.

Defaults live in these dataclasses only. `overrides.py` reads and overrides settings, `serialization.py`
stores them.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

import jax
from jax import Array

from diffusion.process import Objective, Process
from experiments.data.text import Text
from experiments.errors import UserError
from experiments.optimization.adamw import AdamW
from experiments.optimization.optimizer import Optimizer
from experiments.time_weights.as_bound import AsBound
from experiments.time_weights.time_weight import TimeWeight
from experiments.token_losses.process_loss import ProcessLoss
from experiments.token_losses.token_loss import TokenLoss
from experiments.token_weights.even import Even
from experiments.token_weights.token_weight import TokenWeight
from experiments.trackers.no_tracker import NoTracker
from experiments.trackers.tracker import Tracker
from experiments.training.digests import leaves
from models.backbone import Backbone, Network
from models.roles import Vector
from samplers.ancestral import Ancestral
from samplers.sampler import Sampler


def _at_least(config, least: float, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(
                f"{type(config).__name__}.{name} = {getattr(config, name)} must be at least {least}"
            )


@dataclass(frozen=True)
class Train:
    """How long a run is trained, on how much, and what it keeps.

    num_steps: updates in all; 0 saves the initial state and ends. batch_size: sequences per update, over
    all devices and microbatches. accumulation: microbatches of an update, one after another, which saves
    memory; it divides batch_size. seed: of the parameters, the order of the data and all noise.
    ema_decay: of the average of the parameters, which is what is evaluated and sampled; after n updates
    it is (1 + n) / (10 + n) where that is less. label_dropout: where sequences have labels, the share
    that is trained without.

    log_every, eval_every, checkpoint_every: updates between lines of metrics, between evaluations, each
    of which goes with a checkpoint, and between checkpoints. keep_last: how many of the newest
    checkpoints are kept. keep_best: how many of those that were best in evaluation are kept besides.

    skip_bad: a step whose loss or gradient norm is not finite changes no parameters. max_grad_ratio: nor
    does one whose gradient norm is more than so many times its running mean (over some 100 steps); None
    compares no norms. rollback_after: after so many bad steps in a row the run goes back to its newest
    checkpoint with another order of the data. max_rollbacks: how often, until it ends.

    token_loss: what is minimised of the logits of a token. token_weight, time_weight: how much each
    token, and each time, counts in the loss. The bound that is evaluated never changes.
    attention_annealing: updates over which attention opens from causal to full (`training.annealing`),
    for a network that was autoregressive; 0 leaves it as it is. tracker: where metrics go besides files,
    such as WeightsAndBiases or MLflow.
    """

    num_steps: int = 1_000_000
    batch_size: int = 512
    accumulation: int = 1
    seed: int = 0
    ema_decay: float = 0.9999
    label_dropout: float = 0.1
    log_every: int = 100
    eval_every: int = 10_000
    checkpoint_every: int = 5_000
    keep_last: int = 2
    keep_best: int = 1
    skip_bad: bool = True
    max_grad_ratio: float | None = None
    rollback_after: int = 10
    max_rollbacks: int = 3
    token_loss: TokenLoss = ProcessLoss()
    token_weight: TokenWeight = Even()
    time_weight: TimeWeight = AsBound()
    attention_annealing: int = 0
    tracker: Tracker = NoTracker()

    def __post_init__(self):
        _at_least(
            self, 1, "batch_size", "accumulation", "log_every", "eval_every",
            "checkpoint_every", "keep_last", "rollback_after",
        )  # fmt: skip
        _at_least(self, 0, "num_steps", "seed", "keep_best", "max_rollbacks", "attention_annealing")
        if self.max_grad_ratio is not None and not (self.skip_bad and self.max_grad_ratio > 1):
            raise ValueError(
                f"Train.max_grad_ratio = {self.max_grad_ratio} must exceed 1 and needs skip_bad = "
                "True; None turns the comparison off"
            )
        for name in ("ema_decay", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Train.{name} = {getattr(self, name)} is outside [0, 1)")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"Train.batch_size = {self.batch_size} is not a multiple of "
                f"accumulation = {self.accumulation}"
            )


@dataclass(frozen=True)
class Evaluation:
    """How bounds are estimated.

    num_times: calls of the network a sequence. estimator: what they are spent on:
    "times": the bound of the process itself, at stratified times, each sequence for itself.
    "low_discrepancy": the same, and neighbouring sequences take times apart from each other.
    "quadrature": the same integral by Gauss and Legendre's nodes of time: no bound but an estimate, of
    an error that its standard error does not know.
    "any_order" is for masked processes: the likelihood in random order, `group` tokens at a time, with
    an exact number of tokens known, at numbers of low discrepancy. With group 1 and a network without
    time its mean is that of "times".
    "orders" is for the same: the likelihood of whole random orders, `orders` of them a sequence, with
    the logarithm outside of their mean, a tighter bound at ceil(L / group) calls for each.
    "auto" is the one of least noise (docs/measurements.md): "any_order" with group 1 where its mean is
    that of "times", else "low_discrepancy".

    group: tokens that are revealed together, of "any_order" and "orders". orders: of "orders", how many
    a sequence. batch_size: sequences that are evaluated together. max_sequences: how many the
    evaluations during training take, spread over the validation split; `ddlm evaluate` takes the whole
    split. labels: whether a network that was trained with labels is given them.
    """

    num_times: int = 8
    estimator: Literal["auto", "times", "low_discrepancy", "quadrature", "any_order", "orders"] = (
        "auto"
    )
    group: int = 1
    orders: int = 4
    batch_size: int = 32
    max_sequences: int = 512
    labels: bool = True

    def __post_init__(self):
        _at_least(self, 1, "num_times", "group", "orders", "batch_size", "max_sequences")


@dataclass(frozen=True)
class Mesh:
    """How many devices each axis has; the product is all of them, and one -1 takes the rest.

    data: the batch is split along it. fsdp: the batch and the parameters are. tensor: the parameters
    are.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = (self.data, self.fsdp, self.tensor)
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(f"Mesh {sizes}: sizes are at least 1, and one of them may be -1")


@dataclass(frozen=True)
class Teacher:
    """A finished run of the same data, whose network the objective learns from, or a token weight
    compares with.

    workdir: its run directory. start_from: whether the student begins with the teacher's parameters,
    which asks for the same model. model: the teacher's, filled in from its run. fingerprint: of the
    parameters taken, filled in likewise.
    """

    workdir: str = ""
    start_from: bool = True
    model: Backbone | None = None
    fingerprint: str = ""


def _check_integers(config, path: str = "") -> None:
    """ValueError for a setting that the devices' integers of 32 bits, or a seed's, do not hold."""
    for f in fields(config):
        value, name = getattr(config, f.name), f"{path}{f.name}"
        if is_dataclass(value):
            _check_integers(value, f"{name}.")
        elif type(value) is int:
            least, most = (0, 2**32 - 1) if f.name == "seed" else (-(2**31), 2**31 - 1)
            if not least <= value <= most:
                raise ValueError(f"{name} = {value} is outside {least} to {most}")


@dataclass(frozen=True)
class Experiment:
    """All that a run depends on.

    process: what is trained, and how noise is made and undone. model: its network. data: the text.
    sampler: how text is made; a classifier has no use for it. optimizer: how gradients become updates.
    train, evaluation: how much of each, and how. mesh: the devices. teacher: the run that a student
    learns from, or the reference of a token weight, None for others. energy: the second network of a
    process with a residual energy, which begins as the base where it is an EnergyTransformer; None for
    others. init_from: a run whose averaged parameters this one begins with, as far as they fit; for a
    process with a frozen base it is the base, from which model and process.base are taken; "" draws
    them. init_model: "config" builds `model` as it stands here; "run" takes sizes and form of the
    network, and the tokenizer, from that run, and of `model` how it is computed and what it changes
    (`Backbone.like`). energy_from: the run that `energy` is taken from where it is an autoregressive
    Transformer, else "".
    """

    process: Objective
    model: Backbone
    data: Text = Text()
    sampler: Sampler = Ancestral()
    optimizer: Optimizer = AdamW()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()
    mesh: Mesh = field(default_factory=Mesh)
    teacher: Teacher | None = None
    energy: Backbone | None = None
    init_from: str = ""
    init_model: Literal["config", "run"] = "config"
    energy_from: str = ""

    def __post_init__(self):
        _check_integers(self)
        self._check_networks()
        if self.process.traits.output == "tokens":
            self._check_sampler()
        self._check_recipe()
        if self.data.labels:
            self._check_labels()
        if self.process.traits.labels == "required" and self.train.label_dropout:
            raise ValueError(
                f"train.label_dropout = {self.train.label_dropout}, but {type(self.process).__name__} "
                "learns the label of every sequence; set it to 0"
            )
        self._check_rows()
        self.process.check(self)
        for depth, sampler in enumerate(self.sampler.layers):
            sampler.check(self, "sampler" + depth * ".inner")

    def _check_networks(self) -> None:
        """ValueError for networks that are not what the process asks for."""
        name, traits = type(self.process).__name__, self.process.traits
        if (traits.second_network == "energy") != (self.energy is not None):
            raise ValueError(
                f"energy = {self.energy}, but process {name} has "
                + ("no energy" if self.energy else "one; set energy, as configs/sotu/edlm.py")
            )
        if self.model.output != traits.output:
            raise ValueError(
                f"model {type(self.model).__name__} outputs {self.model.output}, but process "
                f"{name} needs {traits.output}: use Classifier with NoisyClassifier, Transformer "
                "with the others"
            )
        if self.model.inserts != traits.inserts:
            what = (
                "no numbers of missing tokens" if traits.inserts else "them, which it does not read"
            )
            raise ValueError(
                f"model {type(self.model).__name__} outputs {what}, for process {name}; use "
                "InsertionTransformer with FlexMDM, and with it alone"
            )
        if self.model.ahead != traits.ahead:
            raise ValueError(
                f"model.ahead = {self.model.ahead}, but {name} trains on {traits.ahead} tokens at each "
                "position; set both to 1, or with Autoregressive process.ahead and model.ahead to one "
                "number"
            )
        states = self.process.states if isinstance(self.process, Process) else "tokens"
        if states not in self.model.inputs:
            raise ValueError(
                f"model {type(self.model).__name__} takes {' and '.join(self.model.inputs)}, but "
                f"states of {name} are {states}; choose Transformer"
            )
        if traits.attention_block is not None and not self.model.decodes:
            raise ValueError(
                f"model {type(self.model).__name__} cannot go from left to right, as {name} "
                "requires; choose Transformer"
            )
        if self.energy_from and (self.energy is None or self.energy.output != "tokens"):
            raise ValueError(
                f"energy_from = {self.energy_from}, but process {name} uses no energy from a run; "
                "leave it out"
            )
        if traits.trained == () and self.train.num_steps:
            raise ValueError(
                f"train.num_steps = {self.train.num_steps}, but {name} has nothing to train; set "
                "it to 0"
            )
        seen, most = self.sampler.seen_together(self.data.length), self.model.max_length
        if most is not None and seen > most:
            raise ValueError(
                f"data.length = {self.data.length}, but model {type(self.model).__name__} has learned "
                f"positions for {most} tokens; set it to at most that"
            )
        opens = self.energy is None and self.model.decodes and not self.model.block_length
        if self.train.attention_annealing and (traits.attention_block is not None or not opens):
            raise ValueError(
                f"train.attention_annealing = {self.train.attention_annealing} ends with "
                f"attention to all positions, which {name} with {type(self.model).__name__} does "
                "not have; set it to 0, or use MDLM with Transformer"
            )
        block, has = traits.attention_block, self.model.block_length
        if block is not None and has not in (None, block):
            raise ValueError(
                f"model.block_length = {has}, but {name} needs attention in blocks of {block}; "
                "leave it out"
            )

    def _check_recipe(self) -> None:
        for setting, plain in (("time_weight", "AsBound"), ("token_loss", "ProcessLoss")):
            part = getattr(self.train, setting)
            try:
                part.check(self.process)
            except ValueError as error:
                name = type(part).__name__
                raise ValueError(f"train.{setting} = {name}: {error}; use {plain}") from error
        weight, name = self.train.token_weight, type(self.process).__name__
        if weight.needs_reference and self.process.traits.second_network != "none":
            raise ValueError(
                f"train.token_weight = {type(weight).__name__} compares with a reference run, but "
                f"{name} has a second network already; use Even"
            )

    def _check_sampler(self) -> None:
        compatibility = self.sampler.compatibility(self.process)
        if compatibility.kind == "unsupported":
            raise ValueError(
                f"sampler {type(self.sampler).__name__} does not support process "
                f"{type(self.process).__name__}: {compatibility.why}; Autoregressive is sampled "
                "by LeftToRight, BlockDiffusion by BlockByBlock (masked models by SemiAutoregressive), "
                "EsoLM by TwoPhase, FlexMDM by Insertion, DGLM by PlanAndWrite, others by Ancestral "
                "and more (docs/samplers.md)"
            )

    def _check_rows(self) -> None:
        name, traits, rows = type(self.process).__name__, self.process.traits, self.data.rows
        # What has no loss of its own for each position, given that others are known.
        summed = traits.own_parameters and traits.whole_rows
        if rows == "pair" and (
            traits.second_network != "none" or traits.output != "tokens" or summed
        ):
            raise ValueError(
                f"data.rows = 'pair': {name} has no loss of answers given prompts, which is a sum over "
                "positions; use a process that has, such as MDLM, RADD, SEDD, UDLM, BlockDiffusion or "
                "Autoregressive"
            )
        if "segments" in self.data.given and traits.whole_rows:
            advice = "fill rows up with data.end" if rows == "pair" else "set data.rows = wrap"
            raise ValueError(
                f"data.rows = {rows!r}: {name} treats a row as one text of full length; {advice}"
            )

    def _check_labels(self) -> None:
        labels = self.process.traits.labels
        if labels == "optional" and not self.model.time_conditioning:
            raise ValueError(
                f"data.labels = {self.data.labels}, but model.time_conditioning is not True, and "
                "labels enter the network together with the time; set it to True, or leave "
                "data.labels out"
            )
        if labels == "unsupported":
            raise ValueError(
                f"data.labels = {self.data.labels}, but {type(self.process).__name__} does not "
                "support labels, since its second network has none; leave them out"
            )

    def init_params(self, key: Array) -> dict:
        """All that is trained: the model's parameters, and under "process" those of the process."""
        own = self.process.init(jax.random.fold_in(key, 1))
        params = self.model.init(key) | ({"process": own} if own else {})
        if self.energy is not None:
            params["energy"] = self.energy.init(jax.random.fold_in(key, 2))
        return params

    def roles(self) -> dict:
        """What each parameter of `init_params` is, a `models.roles.Role` in the place of its array; the
        process's own are vectors. UserError where a network does not say it of all it makes."""
        own = jax.eval_shape(self.process.init, jax.random.key(0))
        roles = _roles_of(self.model)
        if own:
            roles = roles | {"process": jax.tree.map(lambda _: Vector(), own)}
        if self.energy is not None:
            roles = roles | {"energy": _roles_of(self.energy)}
        return roles

    def teacher_roles(self) -> dict:
        """As `roles`, of the teacher's network; of an experiment whose teacher is loaded."""
        model = self.teacher and self.teacher.model
        assert model is not None  # `training.teacher.load_teacher`
        return model.roles()

    def bind(self, params: dict, frozen: dict | None = None) -> Objective:
        """The process with its share of the parameters; frozen: those of its teacher, if any."""
        process = self.process.bind(params.get("process", {}))
        if frozen is None or process.traits.second_network != "teacher":
            return process
        return process.taught_by(self.reference(frozen))

    def reference(self, frozen: dict | None, **condition: Any) -> Network:
        """The teacher's network with its parameters; of an experiment whose teacher is loaded."""
        assert self.teacher and self.teacher.model and frozen  # `training.teacher.load_teacher`
        return Network(self.teacher.model, frozen, condition)

    def network(self, params: dict, **condition: Any) -> Any:
        """The model with its parameters, as processes and samplers call it: a `Network`, or what the
        process makes of it. A frozen base is called without the condition, which is for what is
        trained."""
        model, own = self.model.inner, self.model.merge(params)
        if self.energy is None:
            return self.bind(params).wrapped(Network(model, own, condition))
        energy = Network(self.energy, params["energy"], condition)
        return Network(model, own, energy=energy)


def _roles_of(network: Backbone) -> dict:
    roles, made = network.roles(), jax.eval_shape(network.init, jax.random.key(0))
    if other := sorted(leaves(roles).keys() ^ leaves(made).keys()):
        raise UserError(
            f"{type(network).__name__}: init and roles differ in {', '.join(other)}; roles must "
            "give one role for each parameter of init"
        )
    return roles
