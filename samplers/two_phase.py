"""Diffusion for a share of the tokens, then the rest one by one from left to right (Eso-LM, 2506.01928).

The first `steps` calls are ancestral steps from t = 1 to the time at which a share alpha_0 of the tokens
is revealed; they cost nothing but the independence of tokens that are revealed together. Each later call
reveals the first mask of every row, so it draws from the network's own conditional distribution.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp

from diffusion.eso_lm import EsoLM, time_of_masks, time_of_share
from diffusion.process import Objective, mask_schedule
from diffusion.random import split
from samplers.sampler import Compatibility, State, Stepwise, TimedSampler, masks


@dataclass(frozen=True)
class TwoPhase(TimedSampler, Stepwise):
    """`steps` calls for a share of the tokens, and one for each of the others.

    alpha_0: the share, in [0, 1]; of an EsoLM it is the process's own, whatever stands here.
    """

    alpha_0: float = 0.5
    grids: ClassVar[tuple[str, ...]] = ("uniform", "cosine")  # a fitted one is of all times
    requires: ClassVar[type] = Objective
    lacking: ClassVar[str] = "only masks with one schedule in continuous time are revealed so"

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.alpha_0 <= 1:
            raise ValueError(f"TwoPhase.alpha_0 = {self.alpha_0} is outside [0, 1]")

    def compatibility(self, process):
        if isinstance(process, EsoLM):
            return Compatibility(
                "exact", "ancestral steps, then one token a call from left to right"
            )
        if masks(process):
            return Compatibility("approximate", "the rest comes from left to right, not at random")
        return Compatibility("unsupported", self.lacking)

    def calls(self, process, length):
        return self.steps + length

    def max_steps(self, process, length):
        return self.steps + length

    def run(self, key, process, model, shape, known=None, trace=False, start=None):
        sampler = self
        if isinstance(process, EsoLM):
            sampler, process = replace(self, alpha_0=process.alpha_0), process.base
        return super(TwoPhase, sampler).run(key, process, model, shape, known, trace, start)

    def ended(self, state, process):
        return (state.z != process.vocab_size).all(1)

    def advance(self, key, number, state, process, model, known):
        z, schedule, mask = state.z, mask_schedule(process), process.vocab_size
        end = time_of_share(schedule, self.alpha_0)
        key_draw, key_bridge = split(key)
        times = self.ends(jnp.minimum(number, self.steps - 1), state)
        now, then = (end + (1 - end) * time for time in times)
        diffuses = number < (self.steps if self.alpha_0 > 0 else 0)
        masked = z == mask
        t = jnp.where(diffuses, now, time_of_masks(schedule, masked))
        x0 = process.draw(key_draw, model, z, t)
        first = masked & (jnp.cumsum(masked, axis=1) == 1)
        revealed = process.bridge(key_bridge, x0, z, now, then)
        z = jnp.where(diffuses, revealed, jnp.where(first, x0, z))
        s = jnp.where(diffuses, then, time_of_masks(schedule, z == mask))
        return State(z, s, x0, state.calls + 1, state.memory)
