"""Distillation for likelihood: a student of the same noisy states, usually of a smaller size.

A masked position of z_t is trained on the teacher's distribution p_T of its token beside the token
itself ("soft targets", arXiv 1503.02531), each weighed as in the bound:

    share w(t) sum_v -p_T(v) log p(v)  +  (1 - share) w(t) -log p(x0).

The terms have the same mean where the teacher is exact, since p_T(v | z_t) is the mean of x0 = v given
z_t: soft targets then leave the bound and take noise away. Where it is not, the student learns what the
teacher says, and the share of the text corrects it. Self-distillation is a student of the teacher's own
size that begins anew.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.distillation import OfSameProcess
from diffusion.mdlm import MDLM
from diffusion.model import RowModel, at_positions
from diffusion.numerics import log_softmax


@dataclass(frozen=True)
class SoftTargets(OfSameProcess, MDLM):
    """The student of MDLM, at the same noisy states.

    share: of the loss that is the teacher's, from 0, the text alone, to 1.
    """

    share: float = 0.5
    kind: ClassVar[type[MDLM]] = MDLM

    def __post_init__(self):
        MDLM.__post_init__(self)
        if not 0 <= self.share <= 1:
            raise ValueError(f"SoftTargets.share = {self.share} is outside [0, 1]")

    def loss(self, key: Array, model: RowModel, x0: Array, u: Array) -> Array:
        t = self.time(u)
        z = self.corrupt(key, x0, t)
        soft = jax.nn.softmax(self.teacher_of(model)(z, t))
        target = self.share * soft + (1 - self.share) * jax.nn.one_hot(x0, self.num_tokens)

        def nats(out, target, z, t):
            return self.weight(t) * -jnp.sum(target * log_softmax(out), axis=-1)

        return at_positions(model, nats, self.counted(z), target, z, t)
