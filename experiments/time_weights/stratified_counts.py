"""Exact numbers of masked tokens, spread evenly over the batch (the likelihood protocol of LLaDA,
arXiv 2502.09992, with its numbers stratified: `diffusion.any_order`).

At a time t the number of masked tokens is binomial, and the weight 1 / t of a masked token divides by
its mean. Here a number m of 1..L is chosen, exactly m random tokens are masked, and each weighs L / m:
what the number itself adds to the noise is gone, and no sequence is without a mask.

The expected loss is the likelihood in random order, a bound of its own and, with exact ends of the
schedule and a network without time, that of MDLM: the minimum does not move. A network with time is
asked at the time when a share m / L is masked.
"""

from dataclasses import dataclass

from diffusion.any_order import AnyOrder
from diffusion.model import RowModel
from experiments.time_weights.complementary import in_continuous_time
from experiments.time_weights.time_weight import TimeWeight


@dataclass(frozen=True)
class StratifiedCounts(TimeWeight):
    """For processes that mask all tokens alike, in continuous time: MDLM."""

    def __call__(self, process, u, x0, key):
        return 1.0

    def loss(self, process, key, model: RowModel, x0, u):
        (nats,) = AnyOrder(process).bound_terms(key, model, x0, u).values()
        return nats

    def check(self, process):
        in_continuous_time(process)
