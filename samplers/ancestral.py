"""Ancestral sampling: draw x0 from the model, then z_s from the exact bridge q(z_s | z_t, x0).

Per step and position this is a draw of sum_x0 p(x0 | z_t) q(z_s | z_t, x0); the positions are
independent given z_t, which is the only error of a finite number of steps.

A network without time gives the same output as long as its input stays the same. With `cached` it is
called again only when some row of the batch has changed, by a branch inside the compiled loop: the same
samples bit for bit, for fewer calls where steps are many and rows few (MDLM, arXiv 2406.07524). For many
rows `samplers.first_hitting` has the same distribution and skips each row's idle steps.

With `greedy_tail` the last step takes the most probable tokens in place of draws (Duo, arXiv
2506.10892): in few steps much of the noise goes in the last, and draws apart from each other do not fit
together.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.model import LogitsFunction, Model, saying
from diffusion.numerics import log_one_hot
from diffusion.process import JumpProcess, Process
from diffusion.random import split
from samplers.sampler import Compatibility, GridSampler, State


def ancestral_step(
    key: Array,
    process: Process,
    model: Model,
    z: Array,
    t: Array,
    s: Array,
    logits_processor: LogitsFunction | None = None,
) -> tuple[Array, Array]:
    """(z_s, x0) as `GridSampler.step` gives them: x0 drawn from the model, then z_s from the bridge."""
    key_draw, key_bridge = split(key)
    x0 = process.draw(key_draw, model, z, t, logits_processor)
    return process.bridge(key_bridge, x0, z, t, s), x0


@dataclass(frozen=True)
class Ancestral(GridSampler):
    """`steps` calls of the network; `grid` places them in time.

    cached: whether a call is left out where no row of the batch has changed (above). greedy_tail:
    whether the last step takes the most probable tokens.
    """

    cached: bool = False
    greedy_tail: bool = False
    lacking: ClassVar[str] = "the process has no bridge"

    def compatibility(self, process):
        if self.cached and isinstance(process, Process) and not isinstance(process, JumpProcess):
            return Compatibility(
                "unsupported", "cached=True needs a single network and discrete states"
            )
        found = Compatibility("exact", "draws of x0, then of the exact bridge")
        if self.greedy_tail:
            found = Compatibility("approximate", "the last step takes the most probable tokens")
        return self.unsupported(process) or found

    @property
    def draws_jointly(self):
        return True

    def check(self, experiment, path):
        super().check(experiment, path)
        if self.cached and experiment.model.time_conditioning:
            raise ValueError(
                f"{path}.cached = True, but model.time_conditioning = True: the output changes "
                "with time even when no token does; set cached to False"
            )

    def step(self, key, process, model, z, t, s):
        def greedy(log_p0):
            likeliest = log_one_hot(log_p0.argmax(-1), log_p0.shape[-1])
            return jnp.where((s > 0)[..., None], log_p0, likeliest)

        return ancestral_step(key, process, model, z, t, s, greedy if self.greedy_tail else None)

    def begin(self, key, state, process, known):
        state = super().begin(key, state, process, known)
        if not self.cached:
            return state
        out = jnp.zeros((*state.z.shape, process.num_tokens))
        return state._replace(memory=(out, jnp.ones((), bool)))

    def advance(self, key, number, state, process, model, known):
        if not self.cached:
            return super().advance(key, number, state, process, model, known)
        out, changed = state.memory
        t, s = self.ends(number, state)
        out = jax.lax.cond(changed, lambda: model(state.z, t).astype(out.dtype), lambda: out)
        z, x0 = self.step(key, process, saying(model, out), state.z, t, s)
        if known is not None:
            z = jnp.where(known >= 0, known, z)
        calls = state.calls + changed.astype(jnp.int32)
        return State(z, s, x0, calls, (out, (z != state.z).any()))
