"""Complementary masks in pairs (MIRROR, arXiv 2511.18159): what one state masks the other shows.

Each sequence is seen at two states: with every token masked with probability m, and with the complement
of that mask, each token masked with probability 1 - m; the loss is the mean of the two. Every token is
learned from once in a pair, and one of few masks, whose weight is large, goes with one of many.

Both states alone have the distribution that the bound asks for, m and 1 - m both being uniform, so that
the expected loss is the bound: the minimum does not move. The two together are less noisy than two
independent ones. A step costs two calls of the network: halve train.batch_size for equal cost.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from diffusion.process import Objective, Process, mask_schedule
from diffusion.random import uniform
from diffusion.schedules import time_of
from experiments.time_weights.as_bound import AsBound
from experiments.time_weights.time_weight import TimeWeight


@dataclass(frozen=True)
class Complementary(TimeWeight):
    """For processes that mask all tokens alike, in continuous time: MDLM.

    weight: of the times of both states.
    """

    weight: TimeWeight = AsBound()

    def __call__(self, process, u, x0, key):
        return self.weight(process, u, x0, key)

    def loss(self, process, key, model, x0, u):
        draws, schedule = uniform(key, x0.shape), mask_schedule(process)
        assert isinstance(process, Process)  # `mask_schedule`
        least, most = (jnp.exp(schedule.log1m_alpha(jnp.full_like(u, end))) for end in (0, 1))
        total = jnp.zeros(())
        for share, drawn in ((u, draws), (1 - u, 1 - draws)):
            masked = least + (most - least) * share
            t = time_of(schedule, jnp.log(masked))
            z = jnp.where(drawn < masked, process.num_tokens, x0)
            # Shares of masks are uniform here, where the bound has uniform times.
            slope = (most - least) / -schedule.dalpha(t)
            total += slope * self(process, t, x0, key) * process.loss_of(model, x0, z, t)
        return total / 2

    def check(self, process):
        in_continuous_time(process)
        self.weight.check(process)


def in_continuous_time(process: Objective) -> None:
    """Nothing; ValueError for a process that does not mask all tokens alike, at any time."""
    mask_schedule(process)
    if not process.traits.any_order:
        raise ValueError(
            f"{type(process).__name__} as it is set has no bound that is a mean over numbers of masked "
            "tokens, as MDLM with num_steps = None has"
        )
