"""First-hitting sampling of masked diffusion (arXiv 2409.02908): go from one reveal to the next.

When a position is revealed does not depend on what it or any other reveals. With u uniform in (0, 1) it
is masked at t as long as 1 - alpha(t) > u, so it is revealed at the t where 1 - alpha(t) = u. All these
times are drawn before the first call, sorted, and each call of the network serves the next reveals of a
row, at that row's own time. Nothing is spent on steps in which nothing happens:

    steps None    the continuous-time process, `group` reveals a call. With group 1 this is exact: one
                  token at a time, L calls. A larger group draws as many tokens independently of each
                  other, which is the one approximation.
    steps T       ancestral sampling in T steps, the same distribution: the reveals of one step are one
                  call, at the time the step begins. Rows skip their idle steps, each its own, so L
                  tokens take at most min(T, L) calls, and in the mean the sum over steps of the chance
                  that a step reveals something.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffusion.model import JointModel
from diffusion.process import mask_schedule
from diffusion.random import categorical, uniform
from diffusion.schedules import time_of
from samplers.logits_processor import LogitsProcessor
from samplers.sampler import Compatibility, State, Stepwise, masks


@dataclass(frozen=True)
class FirstHitting(Stepwise):
    """From one reveal to the next (above).

    group: reveals a call, in continuous time. steps: T of ancestral sampling, with group 1; None is
    continuous time. logits_processor: changes the distribution that each token is drawn from.
    """

    group: int = 1
    steps: int | None = None
    logits_processor: LogitsProcessor = LogitsProcessor()

    def __post_init__(self):
        if self.group < 1:
            raise ValueError(f"FirstHitting.group = {self.group} must be at least 1")
        if self.steps is not None and (self.steps < 1 or self.group != 1):
            raise ValueError(
                f"FirstHitting.steps = {self.steps} must be at least 1, with group = 1; or None"
            )

    def compatibility(self, process):
        if not masks(process):
            return Compatibility(
                "unsupported", "needs a masked process with one schedule in continuous time"
            )
        if self.steps is not None:
            return Compatibility("exact", "ancestral sampling without its idle steps")
        if self.group > 1:
            return Compatibility(
                "approximate", f"{self.group} tokens per call, independently of each other"
            )
        return Compatibility("exact", "one token per call, at its own time")

    @property
    def draws_jointly(self):
        return True

    def calls(self, process, length):
        most = -(-length // self.group)
        return most if self.steps is None else min(self.steps, length)

    def begin(self, key, state, process, known):
        at_1 = mask_schedule(process).log1m_alpha(jnp.ones(()))
        log_u = jnp.log(uniform(key, state.z.shape)) + at_1  # of what is masked at t = 1
        return state._replace(t=self._next(process, state.z, log_u), memory=log_u)

    def ended(self, state, process):
        return (state.z != process.vocab_size).all(1)

    def advance(self, key, number, state, process, model, known):
        z, t, log_u = state.z, state.t, state.memory
        waiting = jnp.where(z == process.vocab_size, log_u, -jnp.inf)
        if self.steps is None:
            first, at = jax.lax.top_k(waiting, min(self.group, z.shape[1]))
            old = jnp.take_along_axis(z, at, axis=1)
            if isinstance(model, JointModel):
                x0 = jnp.take_along_axis(process.draw(key, model, z, t), at, axis=1)
            else:  # only what is revealed is drawn
                chosen = jnp.take_along_axis(model(z, t), at[..., None], axis=1)
                x0 = categorical(key, process.predict(chosen, old, t))
            x0 = jnp.where(jnp.isneginf(first), old, x0)
            z = jnp.put_along_axis(z, at, x0, axis=1, inplace=False)
        else:
            s = t - 1 / self.steps
            last = mask_schedule(process).log1m_alpha(jnp.maximum(s, 0))
            last = jnp.where(s < 0.5 / self.steps, -jnp.inf, last)
            last = jnp.minimum(last, waiting.max(1, keepdims=True))
            reveal = (waiting >= last) & (z == process.vocab_size)
            z = jnp.where(reveal, process.draw_at(key, model, z, t, reveal), z)
        return State(z, self._next(process, z, log_u), z, state.calls + 1, log_u)

    def _next(self, process, z, log_u):
        """When the next call is, (B, 1); 0 where nothing is masked."""
        waiting = jnp.where(z == process.vocab_size, log_u, -jnp.inf).max(1, keepdims=True)
        t = time_of(mask_schedule(process), waiting)
        if self.steps is not None:
            t = jnp.ceil(t * self.steps) / self.steps
        return jnp.where(jnp.isneginf(waiting), 0.0, t)
