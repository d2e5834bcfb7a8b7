"""ReMDM: masked diffusion that masks revealed tokens again (arXiv 2503.00307), so that it can correct.

A step from t to s masks a revealed token with probability sigma and reveals a masked one, as a draw of
p(x0 | z_t), with probability

    (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t),     0 <= sigma <= min(1, (1 - alpha_s) / alpha_t),

which keeps the share of masks at every time that of MDLM, whatever sigma is:

    cap          sigma = min(eta, its maximum)
    rescale      sigma = eta times its maximum
    confidence   times softmax(-p) over the revealed positions of a row, p the probability of each token
                 when it was revealed, before temperature (`samplers.logits_processor.RankBy`): what was
                 unsure goes first. As many are revealed in the mean as are masked
    loop         no remasking until t = hold; there `loop` of all steps stay at one time, revealing as
                 much as they mask; then no remasking to the end

sigma = 0 is `Ancestral`. With the exact denoiser, whatever sigma, the distribution approaches that of
the data as steps grow; with a learned one, a token drawn too early has another chance.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jax import Array

from diffusion.numerics import gather_last
from diffusion.process import mask_schedule
from diffusion.random import categorical, split, uniform
from samplers.logits_processor import RankBy
from samplers.sampler import Compatibility, State, Stepwise, TimedSampler, masks

Rule = Literal["cap", "rescale"]


def remasking(kept_t: Array, masked_s: Array, rule: Rule, eta: float) -> Array:
    """sigma, the probability that a revealed token is masked, from alpha(t) and 1 - alpha(s), all
    (B, 1)."""
    most = jnp.minimum(1, masked_s / jnp.maximum(kept_t, 1e-30))
    return jnp.minimum(eta, most) if rule == "cap" else eta * most


def revealing(kept_t: Array, masked_s: Array, drop: Array, sigma: Array) -> Array:
    """The probability that a masked position is revealed, where revealed ones are masked with sigma in
    the mean, from alpha(t), 1 - alpha(s), drop = alpha(s) - alpha(t) and sigma, (B, 1) or (B, L)."""
    # Over 1 - alpha(t) = drop + 1 - alpha(s), so that at s = 0 it is exactly 1.
    return (drop + sigma * kept_t) / (drop + masked_s)


def by_confidence(sigma: Array, drawn_with: Array, free: Array) -> Array:
    """(B, L): sigma (B, L) times softmax(-p) over the free positions of a row, p = drawn_with (B, L)."""
    share = jnp.where(free, jnp.exp(-drawn_with), 0)
    return sigma * share / jnp.maximum(share.sum(1, keepdims=True), 1e-30)


@dataclass(frozen=True)
class ReMDM(TimedSampler, Stepwise):
    """`steps` calls of the network. The defaults are the paper's for many steps.

    rule: how eta limits sigma, "cap" or "rescale" (above). eta: from 0, which is `Ancestral`, to 1, the
    most. confidence: whether what was unsure is masked first. loop: the share of all steps that stay at
    one time; 0 has no loop. hold: that time, used with a loop. rank_by: the distribution that confidence
    is of (`samplers.logits_processor.RankBy`).
    """

    rule: Rule = "cap"
    eta: float = 0.02
    confidence: bool = False
    loop: float = 0.0
    hold: float = 0.1
    rank_by: RankBy = "model"

    def __post_init__(self):
        super().__post_init__()
        for name, least in (("eta", 0), ("loop", 0), ("hold", 1e-3)):
            if not least <= getattr(self, name) <= 1:
                raise ValueError(f"ReMDM.{name} = {getattr(self, name)} is outside [{least}, 1]")

        if self.loop and self.grid != "uniform":
            raise ValueError(
                f"ReMDM.loop = {self.loop} has a grid of its own; set grid = {self.grid!r} to 'uniform'"
            )

    def compatibility(self, process):
        if not masks(process):
            return Compatibility(
                "unsupported", "needs a masked process with one schedule in continuous time"
            )
        if self.eta == 0:
            return Compatibility("exact", "nothing is remasked: ancestral sampling")
        return Compatibility("approximate", "another reverse process, with the same share of masks")

    def times(self):
        times = super().times()
        held = round(self.loop * self.steps)
        if not held:
            return times
        moving = self.steps - held
        before = moving - max(1, round(moving * self.hold)) if moving > 1 else moving
        down = jnp.linspace(1, self.hold, before + 1)
        stay = jnp.full(held, self.hold)
        return jnp.concatenate([down, stay, jnp.linspace(self.hold, 0, moving - before + 1)[1:]])

    def modified(self, process, model):
        return model  # `advance` applies the logits processor, to what is drawn

    def begin(self, key, state, process, known):
        state = super().begin(key, state, process, known)
        return state._replace(memory=jnp.ones(state.z.shape))

    def advance(self, key, number, state, process, model, known):
        z, drawn_with = state.z, state.memory
        t, s = self.ends(number, state)
        key_x0, key_reveal, key_mask = split(key, 3)
        masked = z == process.vocab_size
        log_p = process.predict(model(z, t), z, t)
        weights = process.space.weights(z)
        x0 = categorical(key_x0, self.logits_processor(log_p, weights))
        free = ~masked if known is None else ~masked & (known < 0)
        schedule = mask_schedule(process)
        kept_t = jnp.exp(schedule.log_alpha(t))
        masked_s = jnp.exp(schedule.log1m_alpha(s))
        sigma = remasking(kept_t, masked_s, self.rule, self.eta)
        if self.loop:
            sigma = jnp.where(t == s, sigma, 0)
        sigma = jnp.broadcast_to(sigma, z.shape)
        mean = sigma
        if self.confidence:
            sigma = by_confidence(sigma, drawn_with, free)
            mean = sigma.sum(1, keepdims=True) / jnp.maximum(free.sum(1, keepdims=True), 1)
        reveal = revealing(kept_t, masked_s, jnp.exp(schedule.log_drop(t, s)), mean)
        revealed = masked & (uniform(key_reveal, z.shape) < reveal)
        put_back = free & (uniform(key_mask, z.shape) < sigma)
        chosen = jnp.exp(
            gather_last(self.logits_processor.ranking(self.rank_by)(log_p, weights), x0)
        )
        drawn_with = jnp.where(revealed, chosen, drawn_with)
        new = jnp.where(revealed, x0, jnp.where(put_back, process.num_tokens, z))
        return State(new, s, x0, state.calls + 1, drawn_with)
