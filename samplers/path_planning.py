"""Path planning, P2 (arXiv 2502.03540): every step decides anew which tokens stay.

A step from t to s draws a token for each masked position, ranks all positions by how sure the network is
of what stands there, and keeps the share alpha(s) that is ranked first:

    masked positions    log p of the token just drawn
    revealed ones       eta times log p of their token

The rest is masked, revealed tokens among it. The network itself is the planner ("self-planning"): its
output at revealed positions, which training does not ask for, is taken for what it thinks of them.
Tokens are drawn with the logits processor and ranked without its temperature
(`samplers.logits_processor.RankBy`); equal ones are in random order (`samplers.ranking`). With eta = 0 a
revealed token stays.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffusion.numerics import gather_last
from diffusion.process import mask_schedule
from diffusion.random import categorical, fold_in, uniform
from samplers.logits_processor import RankBy
from samplers.ranking import in_order, places
from samplers.sampler import Compatibility, State, Stepwise, TimedSampler, masks


@dataclass(frozen=True)
class PathPlanning(TimedSampler, Stepwise):
    """`steps` calls of the network.

    eta: the weight of log p of revealed tokens, from 0, where they stay, to 1e6. rank_by: the
    distribution that positions are ranked by (`samplers.logits_processor.RankBy`).
    """

    eta: float = 1.0
    rank_by: RankBy = "model"

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.eta <= 1e6:
            raise ValueError(f"PathPlanning.eta = {self.eta} is outside [0, 1e6]")

    def compatibility(self, process):
        if not masks(process):
            return Compatibility(
                "unsupported", "needs a masked process with one schedule in continuous time"
            )
        return Compatibility("approximate", "keeps tokens of high confidence")

    def modified(self, process, model):
        return model  # `advance` applies the logits processor, to revealed positions too

    def advance(self, key, number, state, process, model, known):
        z = state.z
        t, s = self.ends(number, state)
        masked = z == process.vocab_size
        log_p = jax.nn.log_softmax(model(z, t))
        weights = process.space.weights(z)
        x0 = jnp.where(masked, categorical(key, self.logits_processor(log_p, weights)), z)
        # A cut may leave a revealed token without probability: it goes first.
        sure = jnp.maximum(
            gather_last(self.logits_processor.ranking(self.rank_by)(log_p, weights), x0), -1e9
        )
        sure = (
            sure * jnp.where(masked, 1, self.eta) if self.eta else jnp.where(masked, sure, jnp.inf)
        )
        fixed = jnp.zeros(z.shape, bool) if known is None else known >= 0
        free = (~fixed).sum(1, keepdims=True)
        share = jnp.exp(mask_schedule(process).log_alpha(s))
        kept = jnp.floor(free * share + 0.5 + 1e-4) + z.shape[1] - free  # a half is rounded up
        # Apart from the keys that `categorical` splits off.
        chance = uniform(fold_in(key, 2), z.shape)
        rank = places(in_order(jnp.where(fixed, jnp.inf, sure), chance))
        new = jnp.where(rank < kept, x0, process.num_tokens)
        return State(new, s, x0, state.calls + 1)
