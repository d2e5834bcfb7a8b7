"""A classifier of noisy states, p(label | z_t, t), for guidance (arXiv 2105.05233; on discrete states
2412.10193): cross entropy at a state that a process made of labelled text,

    loss = -log p(label | z_t, t),    z_t ~ q(z_t | x0),    t as the process takes it

per sequence, and the same number at each of its positions. With labels as the marginal distribution
p(label) it starts at the entropy of the labels; near t = 1, where nothing is told of x0, it stays there.

model(z, t) is log p(label | z, t), (B,), of the label that each row was given.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from diffusion.mdlm import MDLM
from diffusion.process import Composed, JumpProcess, Process, Traits
from diffusion.simplex import EvidenceProcess


@dataclass(frozen=True)
class NoisyClassifier(Composed):
    """base: the process whose samples are to be guided. It writes no text and has no likelihood."""

    base: Process = MDLM()
    traits: ClassVar[Traits] = Traits(labels="required", output="label", whole_rows=True)

    def __post_init__(self):
        if not isinstance(self.base, Process) or self.base.traits.own_parameters:
            raise ValueError(
                f"NoisyClassifier.base = {type(self.base).__name__} learns its noise, or has none; "
                "choose a process with settled noise, such as MDLM"
            )
        if not isinstance(self.base, JumpProcess | EvidenceProcess):
            raise ValueError(
                f"NoisyClassifier.base = {type(self.base).__name__} is not guided by a classifier of "
                "noisy states; a process on discrete states is, such as MDLM or UDLM, and BFN and "
                "DirichletFlow on the simplex"
            )

    def loss(self, key, model, x0, u):
        t = self.base.time(u)
        z = self.base.corrupt(key, x0, t)
        return jnp.broadcast_to(-model(z, t)[:, None], x0.shape)
