"""Ancestral sampling, then corrections of the finished text (GIDD, arXiv 2503.04482).

A network that has seen wrong tokens as noise can tell which they are. A round asks it at a small time,
as if little noise were left, and draws a token for every position from

    c(x0^i | text)^(1 / temperature),    c what its head holds, the leave-one-out distribution;

of the positions where another token was drawn, the one whose draw was most probable is changed. No noise
is added. A row ends after `patience` rounds in a row in which no more of its tokens than before were the
most probable ones. It moves towards texts that the network is sure of: quality for variety.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.markov import MarkovProcess
from diffusion.numerics import gather_last, log_softmax
from diffusion.random import categorical, fold_in, split
from samplers.ancestral import Ancestral
from samplers.modified_denoiser import processed
from samplers.sampler import Compatibility, Sampled, TimedSampler


@dataclass(frozen=True)
class SelfCorrection(TimedSampler):
    """`steps` calls of the network, and up to `rounds` more.

    rounds: the most changes of a token. temperature: of the draws in a round, above 0. time: the time
    that the network is told there. patience: after how many rounds without a better text a row ends.
    """

    rounds: int = 128
    temperature: float = 0.1
    time: float = 0.01
    patience: int = 32

    def __post_init__(self):
        super().__post_init__()
        for name in ("rounds", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"SelfCorrection.{name} = {getattr(self, name)} must be at least 1"
                )
        if not self.temperature > 0:
            raise ValueError(f"SelfCorrection.temperature = {self.temperature} must be positive")
        if not 0 < self.time <= 1:
            raise ValueError(f"SelfCorrection.time = {self.time} is outside (0, 1]")

    def compatibility(self, process):
        if not isinstance(process, MarkovProcess) or process.known_tokens == "exact":
            return Compatibility(
                "unsupported", "the network takes tokens of a finished text for certain"
            )
        return Compatibility("approximate", "moves towards texts that the network is sure of")

    def calls(self, process, length):
        return self.steps + self.rounds

    def run(self, key, process: MarkovProcess, model, shape, known=None, trace=False):
        key_first, key_rounds = split(key)
        ancestral = Ancestral(self.steps, self.grid, self.information, self.logits_processor)
        first = ancestral.run(key_first, process, model, shape, known)
        model = processed(self.logits_processor, process, model)
        t = process.time(jnp.full((shape[0], 1), self.time))
        free = jnp.ones(shape, bool) if known is None else known < 0

        def unfinished(carry):
            number, _, _, waited, _ = carry
            return (number < self.rounds) & (waited < self.patience).any()

        def one(carry):
            number, z, best, waited, calls = carry
            log_c = log_softmax(process.leave_one_out(model(z, t), z, t))
            agree = (log_c.argmax(-1) == z).sum(1)
            active = waited < self.patience
            waited = jnp.where(agree > best, 0, waited + 1)
            new = corrected(fold_in(key_rounds, number), log_c / self.temperature, z, free)
            z = jnp.where(active[:, None], new, z)
            return number + 1, z, jnp.maximum(best, agree), waited, calls + active

        rows = jnp.zeros(shape[0], jnp.int32)
        begin = (0, first.x0, rows - 1, rows, first.calls)
        _, z, _, _, calls = jax.lax.while_loop(unfinished, one, begin)
        return Sampled(z, calls)


def corrected(key: Array, log_p: Array, z: Array, free: Array) -> Array:
    """z (B, L) with one token changed, or none: of the `free` (B, L) positions at which a draw from
    log_p (B, L, V), up to a constant, differs from z, the one whose draw is most probable."""
    log_p = log_softmax(log_p)
    x = categorical(key, log_p)
    sure = jnp.where((x != z) & free, gather_last(log_p, x), -jnp.inf)
    place = jnp.arange(z.shape[1])[None] == sure.argmax(1)[:, None]
    return jnp.where(place & jnp.isfinite(sure), x, z)
