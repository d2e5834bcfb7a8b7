"""Path planning, P2 (arXiv 2502.03540): every step decides anew which tokens stay.

A step from t to s draws a token for each masked position, ranks all positions by how sure the network is
of what stands there, and keeps the share alpha(s) that is ranked first:

    masked positions    log p of the token just drawn
    revealed ones       eta times log p of their token

The rest is masked, revealed tokens among it. The network itself is the planner ("self-planning"): its
output at revealed positions, which training does not ask for, is taken for what it thinks of them. With
eta = 0 a revealed token stays.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffusion.numerics import pick
from diffusion.random import categorical
from samplers.sampler import OnGrid, State, Verdict, masks


@dataclass(frozen=True)
class PathPlanning(OnGrid):
    """`steps` calls of the network."""

    eta: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not self.eta >= 0:
            raise ValueError(f"PathPlanning.eta = {self.eta} must not be negative")

    def verdict(self, process):
        if not masks(process):
            return Verdict(
                "refused", "only masks with one schedule in continuous time are put back so"
            )
        return Verdict("approximate", "keeps what the network is sure of")

    def bend(self, process, model):
        return model  # the transform acts in `advance`, on revealed positions too

    def advance(self, key, number, state, process, model, given):
        z = state.z
        t, s = self.ends(number, state)
        masked = z == process.vocab_size
        log_p = self.transform(jax.nn.log_softmax(model(z, t)), z)
        x0 = jnp.where(masked, categorical(key, log_p), z)
        # A cut may leave a revealed token without probability: it goes first.
        sure = jnp.maximum(pick(log_p, x0) * jnp.where(masked, 1, self.eta), -1e9)
        fixed = jnp.zeros(z.shape, bool) if given is None else given >= 0
        free = (~fixed).sum(1, keepdims=True)
        kept = jnp.round(free * jnp.exp(process.masked_schedule.log_alpha(s))) + z.shape[1] - free
        sure = jnp.where(fixed, jnp.inf, sure)
        rank = jnp.argsort(jnp.argsort(-sure, axis=1), axis=1)
        new = jnp.where(rank < kept, x0, process.vocab_size)
        return State(new, s, x0, state.calls + 1)
