"""Predictor and corrector: after each ancestral step, moves that leave the distribution at its time as
it is.

    gibbs             draws `positions` positions anew, chosen by chance, each from p(z_s^i | z_s without
                      i) = sum_x c(x) q(z_s | x), c the leave-one-out distribution. With one position
                      this leaves p_s exactly as it is; several are drawn apart. What is drawn anew is
                      masked before the network is asked, where there is a mask: of a revealed token it
                      knows nothing but itself.
    forward_backward  adds the noise from s up to s + share (t - s) and takes an ancestral step back.
                      The distribution at s is left as it is but for what a step of that size does.

So tokens that were drawn too early, or apart from each other, get another chance: with the exact
denoiser the error of few steps falls with the number of corrections.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from diffusion.markov import MarkovProcess
from diffusion.random import categorical, fold_in, split, uniform
from samplers.ancestral import ancestral_step
from samplers.sampler import Compatibility, State, Stepwise, TimedSampler


@dataclass(frozen=True)
class PredictorCorrector(TimedSampler, Stepwise):
    """`steps` ancestral steps, each but the last with `corrections` calls of the network more.

    corrector: "gibbs" or "forward_backward" (above). corrections: how often it acts after a step.
    positions: of "gibbs", how many are drawn anew together. share: of "forward_backward", how much of a
    step it goes back, in (0, 1].
    """

    corrector: Literal["gibbs", "forward_backward"] = "gibbs"
    corrections: int = 1
    positions: int = 1
    share: float = 1.0
    requires: ClassVar[type] = MarkovProcess
    lacking: ClassVar[str] = "the process gives no distribution of a state without its own position"

    def __post_init__(self):
        super().__post_init__()
        for name in ("corrections", "positions"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"PredictorCorrector.{name} = {getattr(self, name)} must be at least 1"
                )
        if not 0 < self.share <= 1:
            raise ValueError(f"PredictorCorrector.share = {self.share} is outside (0, 1]")

    def compatibility(self, process):
        if not isinstance(process, MarkovProcess):
            return Compatibility("unsupported", self.lacking)
        if self.corrector == "forward_backward" and not process.closed_form:
            return Compatibility(
                "unsupported", "the process has no closed form for the noise between two times"
            )
        return Compatibility(
            "approximate", "corrections move the distribution of few steps towards the model's"
        )

    def calls(self, process, length):
        return self.steps + (self.steps - 1) * self.corrections

    def advance(self, key, number, state, process, model, known):
        key_step, key_correct = split(key)
        t, s = self.ends(number, state)
        z, x0 = ancestral_step(key_step, process, model, state.z, t, s)
        if known is None:
            known = jnp.full(z.shape[:2], -1)
        correct = self._gibbs if self.corrector == "gibbs" else self._forward_backward

        def corrected(z):
            def once(n, z):
                z = jnp.where(known >= 0, known, z)
                return correct(fold_in(key_correct, n), z, t, s, process, model, known)

            return jax.lax.fori_loop(0, self.corrections, once, z)

        last = number + 1 == self.steps
        z = jax.lax.cond(last, lambda z: z, corrected, z)
        return State(z, s, x0, state.calls + 1 + jnp.where(last, 0, self.corrections))

    def _gibbs(self, key, z, t, s, process, model, known):
        key_where, key_state = split(key)
        u = jnp.where(known >= 0, jnp.inf, uniform(key_where, z.shape))
        last = jnp.sort(u, axis=1)[:, min(self.positions, z.shape[1]) - 1][:, None]
        chosen = (u <= last) & (known < 0)
        if process.space.mask is not None:
            z = jnp.where(chosen, process.vocab_size, z)
        distribution = process.chain.log_mix(process.leave_one_out(model(z, s), z, s), s)
        return jnp.where(chosen, categorical(key_state, distribution), z)

    def _forward_backward(self, key, z, t, s, process, model, known):
        key_noise, key_back = split(key)
        up = s + self.share * (t - s)
        noisy = process.chain.draw_step(key_noise, z, up, s)
        noisy = jnp.where(known >= 0, known, noisy)
        return ancestral_step(key_back, process, model, noisy, up, s)[0]
