"""An experiment: one frozen tree of dataclasses, built by a config file's `get_config()`.

Defaults live in these dataclasses only. How settings are read, overridden and stored: `settings.py`.
"""

from dataclasses import dataclass, field

import jax
from jax import Array

from diffusion.process import Objective
from experiments.data.text import Text
from models.transformer import Transformer
from samplers.ancestral import Ancestral
from samplers.sampler import Sampler


def _at_least(config, least: float, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(
                f"{type(config).__name__}.{name} = {getattr(config, name)} must be at least {least}"
            )


@dataclass(frozen=True)
class AdamW:
    """Optax AdamW behind clipping by global norm; the rate rises linearly, then is constant or decays.

    decay_steps None keeps peak_lr; otherwise the rate falls along a cosine to final_lr at that step,
    whatever the number of steps trained. weight_decay acts on matrices only.
    """

    peak_lr: float = 3e-4
    warmup_steps: int = 2500
    decay_steps: int | None = None
    final_lr: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0

    def __post_init__(self):
        _at_least(self, 0, "peak_lr", "warmup_steps", "final_lr", "eps", "weight_decay")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"AdamW.{name} = {getattr(self, name)} is outside [0, 1)")
        if self.decay_steps is not None and self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"AdamW.decay_steps = {self.decay_steps} must exceed warmup_steps = {self.warmup_steps}"
            )
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"AdamW.clip_norm = {self.clip_norm} must be positive, or None")


@dataclass(frozen=True)
class Train:
    """batch_size counts sequences per update, over all devices and `accumulation` microbatches.

    label_dropout: where sequences have labels, the share that is trained without.
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

    def __post_init__(self):
        _at_least(
            self, 1, "num_steps", "batch_size", "accumulation", "log_every", "eval_every",
            "checkpoint_every", "keep_last",
        )  # fmt: skip
        _at_least(self, 0, "seed", "keep_best")
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
    """How bounds are estimated; `max_sequences` limits the evaluations during training only."""

    num_times: int = 8
    batch_size: int = 32
    max_sequences: int = 512

    def __post_init__(self):
        _at_least(self, 1, "num_times", "batch_size", "max_sequences")


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis: data (batch), fsdp (batch and parameters), tensor. -1 takes the rest."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = (self.data, self.fsdp, self.tensor)
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(f"Mesh {sizes}: sizes are at least 1, and one of them may be -1")


@dataclass(frozen=True)
class Teacher:
    """A finished run of the same data, whose network the objective learns from.

    model and fingerprint (of the parameters taken) are filled in from the run. start_from: the student
    begins with the teacher's parameters, which asks for the same model.
    """

    workdir: str = ""
    start_from: bool = True
    model: Transformer | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Experiment:
    """All that a run depends on."""

    process: Objective
    model: Transformer
    data: Text = Text()
    sampler: Sampler = Ancestral()
    optimizer: AdamW = AdamW()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()
    mesh: Mesh = field(default_factory=Mesh)
    teacher: Teacher | None = None

    def __post_init__(self):
        missing = [name for name in self.sampler.needs if not hasattr(self.process, name)]
        if missing:
            raise ValueError(
                f"sampler {type(self.sampler).__name__} needs {', '.join(missing)} of the process, "
                f"which {type(self.process).__name__} does not have; Ancestral works for every process"
            )

        most = getattr(self.process, "most_steps", None)
        if most is not None and self.sampler.steps > most:
            raise ValueError(
                f"sampler.steps = {self.sampler.steps}: {type(self.process).__name__} is sampled in "
                f"at most {most}"
            )

    def init_params(self, key: Array) -> dict:
        """All that is trained: the model's parameters, and under "process" those of the process."""
        key_model, key_process = key, jax.random.fold_in(key, 1)
        own = self.process.init(key_process)
        return self.model.init(key_model) | ({"process": own} if own else {})

    def bind(self, params: dict, frozen: dict | None = None) -> Objective:
        """The process with its share of the parameters; frozen: those of its teacher, if any."""
        process = self.process.bind(params.get("process", {}))
        if frozen is None:
            return process
        return process.taught_by(lambda z, t: self.teacher.model.apply(frozen, z, t))
