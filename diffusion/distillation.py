"""Distillation of discrete processes: a student that says at once what its teacher says steps later.

A student has the network and the process of its teacher, and at a noisy state z_t it learns what the
teacher predicts further on, at a state with less noise. One round makes a step as long as several were;
the next round has the student for its teacher. Each loss is a divergence of distributions of x0,

    E_t E_q(z_t | x0) sum_i D(student(z_t)^i, target^i),

of every position that the process has something to say of: under masks the masked ones.

SDTT, self-distillation through time (arXiv 2410.21035), of masks. From z_t the teacher takes m ancestral
steps at times t, t - delta, .. and the target of a position is what it predicted there when it was
revealed; of positions that stay masked the last prediction. What is revealed on the way is drawn from
the teacher and not taken from the text. For an exact teacher the mean of these targets is its prediction
at z_t, but for what it reveals together: the forward divergence has little to teach then. The backward
one, KL(student || target), which is published, prefers what most of the targets agree on.

The released code of SDTT puts its steps at times t u_k + (1 - t) (t - m delta), u_k from 1 to 0, where
t u_k + (1 - u_k) (t - m delta) was meant: of t = 0.9, m = 2 and delta = 1/128 it makes 0.988 and 0.088.
`legacy_grid` has them.

DCD, discrete consistency distillation (Duo, arXiv 2506.10892), of uniform tokens. The target is the
teacher's prediction at s = t - delta on the same path: with one noise e for all times,

    z_t = argmax(a(t) x0 + b(t) e),    z_s = argmax(a(s) x0 + b(s) e).

A position of this path holds x0 as long as e_x0 + a / b exceeds the largest other noise, and then for
good the token of that noise, which is any other token alike. So it needs one uniform number and one
token, whatever V: it is what `corrupt` draws at both times with one key. Its alpha is that of the
integral over y of phi(y - a / b) Phi(y)^(V-1), P, as (V P - 1) / (V - 1); here time goes by `schedule`
instead, which changes how often each noise is trained, and not the pairs.

A student keeps the bound of its process, which stays valid and becomes worse. The distribution of its
samples in few steps has none.
"""

import copy
from abc import abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.mdlm import MDLM
from diffusion.model import Model, RowModel, at_positions, given
from diffusion.numerics import divergence, log_softmax
from diffusion.process import Objective, TimeIntegral, Traits
from diffusion.random import categorical, fold_in, split
from diffusion.udlm import UDLM


class Student(Objective):
    """An objective that learns from the network of a teacher, a finished run."""

    _teacher: ClassVar[Model | None] = None  # until `taught_by` binds one

    def taught_by(self, teacher: Model) -> Self:
        """The objective with its teacher's network, without which there is no loss."""
        bound = copy.copy(self)
        object.__setattr__(bound, "_teacher", teacher)
        return bound

    @property
    def teacher(self) -> Model:
        """The teacher's network; ValueError before `taught_by`."""
        if self._teacher is None:
            name = type(self).__name__
            raise ValueError(f"{name} has no teacher; `taught_by(network)` binds one")
        return self._teacher

    @abstractmethod
    def student_of(self, process: Objective) -> Self:
        """The student of a teacher that was trained as `process`, whose noise it takes; ValueError for
        one that it cannot learn from."""


class Lesson(NamedTuple):
    """What a student is asked and should say: z (B, L) at t (B, 1), and target (B, L, V), logarithms of
    a distribution of x0."""

    z: Array
    t: Array
    target: Array


class OfSameProcess(Student, TimeIntegral):
    """A student that keeps process and bound of its teacher; a subclass inherits from both."""

    kind: ClassVar[type[TimeIntegral]]
    """The process of teacher and student."""

    @property
    def traits(self) -> Traits:
        """`Objective.traits` of the process, and that there is a teacher, who knows no labels."""
        taught = {"second_network": "teacher", "labels": "unsupported", "own_loss": True}
        return replace(super().traits, **taught)

    def student_of(self, process):
        if not isinstance(process, self.kind):
            raise ValueError(f"{type(self).__name__} learns from {self.kind.__name__}")
        return replace(self, **_settings(process, self.kind))

    def teacher_of(self, model: RowModel) -> Model:
        """The teacher's network with what the student is given of the rows."""
        return (
            given(self.teacher, segments=model.segments)
            if model.segments is not None
            else self.teacher
        )

    def bound_terms(self, key, model, x0, u):
        process = self.kind(**_settings(self, self.kind))
        return process.bound_terms(key, model, x0, u)


@dataclass(frozen=True)
class Distilled(OfSameProcess):
    """A student that says at once what its teacher says further on.

    measure: how the student's distribution p is compared with the target q, of each position: "backward"
    KL(p || q), "forward" KL(q || p), "mse", the mean over tokens of (log p - log q)^2, or
    "total_variation", half of the sum of |p - q|. delta: how far in time the teacher goes in a step;
    published from 1 / 1024 (SDTT) or 1 / 512 (DCD) on, twice as far each round.
    """

    measure: Literal["backward", "forward", "mse", "total_variation"] = "backward"
    delta: float = 1 / 128

    def check_student(self) -> None:
        """ValueError for a measure that is none, or a delta outside of (0, 1]."""
        name = type(self).__name__
        if self.measure not in _MEASURES:
            allowed = ", ".join(map(repr, _MEASURES))
            raise ValueError(f"{name}.measure = {self.measure!r} is not one of {allowed}")
        if not 0 < self.delta <= 1:
            raise ValueError(f"{name}.delta = {self.delta} is outside (0, 1]")

    @abstractmethod
    def lesson(self, key: Array, teacher: Model, x0: Array, u: Array) -> Lesson:
        """What is asked of the student, of x0 (B, L) and u (B, 1)."""

    def loss(self, key: Array, model: RowModel, x0: Array, u: Array) -> Array:
        z, t, target = self.lesson(key, self.teacher_of(model), x0, u)

        def apart(out, target, z, t):
            return _MEASURES[self.measure](log_softmax(out), target)

        return at_positions(model, apart, self.counted(z), target, z, t)


def _settings(process: Any, kind: type) -> dict[str, Any]:
    return {f.name: getattr(process, f.name) for f in fields(kind)}


_MEASURES = {
    "backward": divergence,
    "forward": lambda log_p, log_q: divergence(log_q, log_p),
    "mse": lambda log_p, log_q: jnp.mean((log_p - log_q) ** 2, axis=-1),
    "total_variation": lambda log_p, log_q: jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)).sum(-1) / 2,
}


@dataclass(frozen=True)
class SDTT(Distilled, MDLM):
    """The student of MDLM, or of another SDTT, the round before.

    steps: m, how many of the teacher's the student makes one of. legacy_grid: whether their times are
    those of the released code.
    """

    steps: int = 2
    legacy_grid: bool = False
    kind: ClassVar[type[MDLM]] = MDLM

    def __post_init__(self):
        MDLM.__post_init__(self)
        self.check_student()
        if self.steps < 1:
            raise ValueError(f"SDTT.steps = {self.steps} must be at least 1")
        if (self.steps - 1) * self.delta >= 1:
            raise ValueError(
                f"SDTT.steps = {self.steps} of SDTT.delta = {self.delta:g} go further than from t = 1 "
                "to 0; set one of them lower"
            )

    def lesson(self, key, teacher, x0, u):
        key_state, key_teacher = split(key)
        t = self.time(u)
        z = self.corrupt(key_state, x0, t)
        return Lesson(z, t, self.target(key_teacher, teacher, z, t))

    def target(self, key: Array, teacher: Model, z: Array, t: Array) -> Array:
        """log of the targets, (B, L, V), from one run of the teacher from z (B, L) at t (B, 1)."""

        def predicted(z, number):
            return log_softmax(teacher(z, self.teacher_time(t, number)))

        def step(state, number):
            z, target = state
            log_p0 = predicted(z, number)
            key_draw, key_bridge = split(fold_in(key, number))
            now = self.teacher_time(t, number)
            then = jnp.maximum(now - self.delta, 0)
            x0 = categorical(key_draw, log_p0)
            after = self.bridge(key_bridge, x0, z, now, then)
            return (after, self._where_masked(z, log_p0, target)), None

        first = jnp.zeros((*z.shape, self.num_tokens), t.dtype)  # of what is known already
        (z, target), _ = jax.lax.scan(step, (z, first), jnp.arange(self.steps - 1))
        return self._where_masked(z, predicted(z, self.steps - 1), target)

    def teacher_time(self, t: Array, number: Array | int) -> Array:
        """When the teacher takes step `number` from t (B, 1) on, (B, 1)."""
        if not self.legacy_grid:
            return jnp.maximum(t - number * self.delta, 0)
        u = 1 - number / max(self.steps - 1, 1)
        return jnp.maximum(t * u + (1 - t) * (t - self.steps * self.delta), 0)

    def _where_masked(self, z, log_p0, otherwise):
        return jnp.where((z == self.mask)[..., None], log_p0, otherwise)


@dataclass(frozen=True)
class DCD(Distilled, UDLM):
    """The student of UDLM, or of another DCD, the round before."""

    kind: ClassVar[type[UDLM]] = UDLM

    def __post_init__(self):
        UDLM.__post_init__(self)
        self.check_student()

    def lesson(self, key, teacher, x0, u):
        s = (1 - self.delta) * u
        t = s + self.delta
        z, before = (self.corrupt(key, x0, time) for time in (t, s))  # one key: one path
        return Lesson(z, t, log_softmax(teacher(before, s)))
