"""Sequences count by their loss (tilted risk, Li et al. 2021, arXiv 2007.01162): with a positive tilt
hard texts more, with a negative one less, as a text that is noise should.

    weight of all tokens of a row = min(exp(tilt (m - centre)), most),     m = sum of the row's nats / L

The gradient is that of the mean of exp(tilt m) / tilt. The paper divides by the mean of those of a
batch, and Sow et al. (2025, arXiv 2502.06733) make their weights of a batch's losses too; here a row is
weighed by itself, so that its weight does not depend on which rows are computed together: `centre`,
ours, stands for the batch. Of a process with times m is what the bound of the row says at one time: a
tilt prefers noisy times too, at which every text costs more. `against_reference` takes what a reference
run costs at the same noisy state off m (as Mindermann et al. 2022, arXiv 2206.07137), which leaves what
is to learn.

The minimum is biased. Where the loss is exactly -log p(x0), a text of true probability q is learned as
p in proportion to q^(L / (L + tilt)), while weights stay below `most`: flatter for a positive tilt,
sharper for a negative one.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from experiments.token_weights.token_weight import TokenWeight


@dataclass(frozen=True)
class SequenceTilt(TokenWeight):
    """An exponential of the mean loss of a sequence.

    tilt: its factor, per nat; 0 counts all alike, and it is above -1. centre: mean nats a token at which
    a sequence has weight 1; set 0 with against_reference, where they are those above the reference's.
    most: the largest weight. against_reference: whether m is what the run costs above a
    reference, `teacher`, as of `Rho1`.
    """

    tilt: float = 0.5
    centre: float = 2.0
    most: float = 4.0
    against_reference: bool = False

    def __post_init__(self):
        if self.tilt <= -1:
            raise ValueError(f"SequenceTilt.tilt = {self.tilt} must be above -1")
        if self.most <= 0:
            raise ValueError(f"SequenceTilt.most = {self.most} must be above 0")

    @property
    def needs_reference(self) -> bool:
        """Whether m is above a reference."""
        return self.against_reference

    def __call__(self, x0, nats, reference=None):
        if self.against_reference:
            assert reference is not None  # `needs_reference`
            nats = nats - reference
        exponent = self.tilt * (nats.mean(1, keepdims=True) - self.centre)
        weight = jnp.exp(jnp.minimum(exponent, jnp.log(self.most)))
        return jnp.broadcast_to(weight, nats.shape)
