"""RADD: a masked model without time, and its four losses (Ou et al., arXiv 2406.03736).

The conditional distributions of the data, c(z)^i = p(x0^i | revealed tokens of z), do not depend on
time, so the network is not told it. With lambda = 1 - alpha the probability of a mask,

    t_dse         E_t of the denoising score entropy of the score alpha / (1 - alpha) c
    t_dce         E_t  -alpha'(t) / (1 - alpha(t)) sum_(masked) -log c^i
    lambda_dce    E_lambda  1 / lambda sum_(masked) -log c^i,          lambda uniform in (0, 1)
    k_dce         E_k  L / k sum_(masked) -log c^i,    exactly k masked at random, k uniform in 1..L

are one number in the mean: a change of variables leads from t to lambda, and the mean over binomial
numbers of masks to k. They differ in noise. The first two agree for each z_t, since a normalised c makes
the sum over tokens in the score entropy a constant, and are one computation here. The last is the
likelihood in random order (`diffusion.any_order`). `SEDD(head="leave_one_out")` computes the first as
it is written.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from jax import Array

from diffusion.any_order import AnyOrder
from diffusion.mdlm import MDLM
from diffusion.model import RowModel
from diffusion.process import Traits
from diffusion.schedules import Linear

OBJECTIVES = ("t_dse", "t_dce", "lambda_dce", "k_dce")


@dataclass(frozen=True)
class RADD(MDLM):
    """MDLM of a network without time.

    objective: the loss of training (above); evaluation chooses its estimator by itself. schedule: of
    t_dse and t_dce, and of samplers.
    """

    objective: Literal["t_dse", "t_dce", "lambda_dce", "k_dce"] = "lambda_dce"

    def __post_init__(self):
        super().__post_init__()
        if self.objective not in OBJECTIVES:
            raise ValueError(
                f"RADD.objective = {self.objective!r} is not one of {', '.join(OBJECTIVES)}"
            )
        if self.num_steps is not None:
            raise ValueError(
                f"RADD.num_steps = {self.num_steps}, but its losses are those of continuous time; leave "
                "it out"
            )

    @property
    def traits(self) -> Traits:
        """`Objective.traits` of MDLM; the last two losses have times of their own."""
        return replace(super().traits, own_loss=self.objective in ("lambda_dce", "k_dce"))

    def loss(self, key: Array, model: RowModel, x0: Array, u: Array) -> Array:
        if self.objective == "k_dce":
            return AnyOrder(self).bound_terms(key, model, x0, u)["any order"]
        if self.objective == "lambda_dce":
            return MDLM(self.vocab_size, Linear()).loss(key, model, x0, u)
        return super().loss(key, model, x0, u)

    def bound_terms(self, key, model, x0, u):
        return MDLM(self.vocab_size, self.schedule).bound_terms(key, model, x0, u)

    def check(self, experiment: Any) -> None:
        """ValueError for a network with time."""
        if experiment.model.time_conditioning:
            raise ValueError(
                "model.time_conditioning = True, but the network of RADD is not told the time; set it "
                "to False, or take MDLM"
            )
