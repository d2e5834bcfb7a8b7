"""Times drawn as often as they are noisy, learned in training (Nichol and Dhariwal 2021, arXiv
2102.09672, section 3.3; of masked diffusion P-POTS, arXiv 2511.18159, has the same aim).

    u' ~ p,   loss * 1 / p(u'),   p_k proportional to E[ loss^2 | u' in bin k ]^(1/2)

with p constant in each of `bins` bins of u, mixed with the uniform distribution. The running means of
the squared losses of sequences are part of the training state. What is drawn depends on the steps before
alone, and each draw is divided by its own density: the expected loss is that of `weight`, the bound by
default, whatever has been learned, and so is the minimum. Of all such p this one has the least noise of
the loss; the gradient's is another, which is not looked at.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from experiments.time_weights.as_bound import AsBound
from experiments.time_weights.time_weight import TimeWeight


@dataclass(frozen=True)
class LearnedTimes(TimeWeight):
    """For every process that takes times.

    bins: of u in (0, 1). uniform: the share of the draws that is uniform, which bounds the factor 1 / p
    by 1 / uniform. decay: of the running means, for each step that has draws in a bin. weight: of the
    times that are drawn.
    """

    bins: int = 32
    uniform: float = 0.2
    decay: float = 0.95
    weight: TimeWeight = AsBound()

    def __post_init__(self):
        if self.bins < 2:
            raise ValueError(f"LearnedTimes.bins = {self.bins} must be at least 2")
        if not 0 < self.uniform <= 1:
            raise ValueError(f"LearnedTimes.uniform = {self.uniform} is outside (0, 1]")
        if not 0 <= self.decay < 1:
            raise ValueError(f"LearnedTimes.decay = {self.decay} is outside [0, 1)")

    def __call__(self, process, u, x0, key):
        return self.weight(process, u, x0, key)

    def loss(self, process, key, model, x0, u):
        return self.weight.loss(process, key, model, x0, u)

    def check(self, process):
        if self.weight.init():
            raise ValueError("LearnedTimes.weight learns times itself")
        self.weight.check(process)

    def init(self):
        return {"squares": jnp.ones(self.bins)}

    def draw(self, learned, u):
        root = jnp.sqrt(learned["squares"])
        mass = (1 - self.uniform) * root / root.sum() + self.uniform / self.bins
        before = jnp.cumsum(mass) - mass
        place = jnp.clip(jnp.searchsorted(before, u[:, 0], side="right") - 1, 0, self.bins - 1)
        within = jnp.clip((u[:, 0] - before[place]) / mass[place], 1e-7, 1 - 1e-6)
        drawn = (place + within) / self.bins
        return drawn[:, None].astype(u.dtype), 1 / (self.bins * mass[place])[:, None]

    def observe(self, u, nats):
        place = jnp.minimum((u[:, 0] * self.bins).astype(jnp.int32), self.bins - 1)
        of_rows = jax.lax.stop_gradient(nats).mean(1) ** 2
        sums = (jax.ops.segment_sum(a, place, self.bins) for a in (jnp.ones_like(of_rows), of_rows))
        return dict(zip(("count", "squares"), sums, strict=True))

    def learn(self, learned, observed):
        count = observed["count"]
        mean = observed["squares"] / jnp.maximum(count, 1)
        new = self.decay * learned["squares"] + (1 - self.decay) * mean
        return {"squares": jnp.where(count > 0, new, learned["squares"])}
