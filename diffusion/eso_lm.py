"""Eso-LM: masked diffusion for a share of the tokens, the rest from left to right (arXiv 2506.01928).

The reverse process of a masked base goes from t = 1 to the time tau at which a share
alpha_0 = alpha(tau) of the tokens is revealed; what is masked then is revealed one by one from left to
right, given all that stands around it:

    -log p(x0) <= int_tau^1 w(t) E sum_(masked) -log p(x0^i | z_t) dt
                  + E_q(z_tau | x0) sum_(masked) -log p(x0^i | z_tau, x0^j of the masked j < i)

Both are likelihoods in some order of the positions, so with the exact denoiser the sum is -log p(x0).
alpha_0 = 1 is the base, alpha_0 = 0 an autoregressive model whose network also sees how many tokens are
to come.

One network, which sees every position, has both parts, and one call estimates the sum: by u, an example
is of the second part with probability 1 - alpha_0, and one of its masks, chosen evenly, is asked for;
else it is a noisy state of the base at a time in (tau, 1). Published as model A. Model B, whose
attention is causal in the order in which tokens are revealed, can store keys, and has the second part
for all its tokens in one call. It is not here: a token costs a call.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.mdlm import MDLM
from diffusion.model import Model, at_positions
from diffusion.numerics import gather_last
from diffusion.process import Composed, Kind, Likelihood, Traits
from diffusion.schedules import Schedule, masked_weight, time_of


@dataclass(frozen=True)
class EsoLM(Composed, Likelihood):
    """`base` down to where a share `alpha_0` of the tokens is revealed, then from left to right.

    base: MDLM in continuous time, with exact ends. alpha_0: the share, in [0, 1].
    """

    base: MDLM = MDLM()
    alpha_0: float = 0.5
    likelihood: ClassVar[Kind] = "bound"
    traits: ClassVar[Traits] = Traits(own_loss=True)

    def __post_init__(self):
        name, base = type(self.base).__name__, self.base
        if not isinstance(base, MDLM) or base.num_steps is not None or base.traits.own_loss:
            raise ValueError(
                f"EsoLM.base = {name} is not MDLM in continuous time, with its own loss"
            )
        if not 0 <= self.alpha_0 <= 1:
            raise ValueError(f"EsoLM.alpha_0 = {self.alpha_0} is outside [0, 1]")
        with jax.ensure_compile_time_eval():
            ends = base.schedule.log_alpha(jnp.zeros(())), base.schedule.log1m_alpha(jnp.ones(()))
        if any(abs(end) > 1e-6 for end in ends):
            raise ValueError(
                f"EsoLM.base.schedule = {base.schedule} has no exact ends; leave its eps out"
            )

    @cached_property
    def tau(self) -> float:
        """The time of the base at which a share alpha_0 is revealed."""
        return time_of_share(self.base.schedule, self.alpha_0)

    def loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        return self.bound(key, model, x0, u)

    def bound_terms(self, key: Array, model: Model, x0: Array, u: Array) -> dict[str, Array]:
        """As `Objective.bound_terms`, of one call; u (B, 1) chooses the part, and the time or mask in
        it."""
        base, rest = self.base, 1 - self.alpha_0
        ordered = u < rest
        within = jnp.where(ordered, u / max(rest, 1e-9), (u - rest) / max(self.alpha_0, 1e-9))
        t = jnp.where(ordered, self.tau, self.tau + (1 - self.tau) * within)
        z = base.corrupt(key, x0, t)
        masked = z == base.mask
        rank, count = jnp.cumsum(masked, axis=1) - 1, masked.sum(1, keepdims=True)
        chosen = jnp.floor(within * count)  # the mask that is asked for: those before it are filled
        asked = masked & (~ordered | (rank == chosen))
        z = jnp.where(ordered & (rank < chosen), x0, z)
        now = jnp.where(ordered, time_of_masks(base.schedule, z == base.mask), t)

        def nats(out, x0, z, t):
            return -gather_last(base.predict(out, z, t), x0)

        weight = (1 - self.tau) * masked_weight(base.schedule, t) / max(self.alpha_0, 1e-9)
        weight = jnp.where(ordered, count / max(rest, 1e-9), weight)
        value = weight * at_positions(model, nats, asked, x0, z, now)
        return {
            "diffusion": jnp.where(ordered, 0, value),
            "left to right": jnp.where(ordered, value, 0),
        }


def time_of_share(schedule: Schedule, share: float) -> float:
    """The t at which a share of the tokens is revealed, alpha(t); exactly 0 and 1 for 1 and 0."""
    if share in (0, 1):
        return 1.0 - share
    with jax.ensure_compile_time_eval():
        return float(time_of(schedule, jnp.log1p(-jnp.float32(share))))


def time_of_masks(schedule: Schedule, masked: Array) -> Array:
    """(B, 1): the t at which in the mean as many are masked as in `masked` (B, L); 0 for none."""
    share = masked.mean(1, keepdims=True)
    return jnp.where(share > 0, time_of(schedule, jnp.log(share)), 0)
