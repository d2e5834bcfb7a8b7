"""Ancestral sampling with the mean embedding: z_s from q(z_s | z_t, xhat) (VDM, arXiv 2107.00630).

Where `samplers.ancestral` draws a token at each step, this takes the mean of all tokens, weighed by the
model, in its place: a normal step, whose error falls with its length. With score_temperature tau < 1 the
noise that the model sees in z_t is exaggerated, eps / tau, as Plaid (arXiv 2305.18619) samples with 0.9:

    xhat <- (z_t - sigma_t eps / tau) / alpha_t = xhat + (1 - 1 / tau) sigma_t / alpha_t eps.

The last step, to t = 0, draws the tokens from p(x0 | z_t), each on its own.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from diffusion.gaussian import GaussianProcess
from diffusion.random import categorical, split
from samplers.sampler import Compatibility, GridSampler


@dataclass(frozen=True)
class MeanAncestral(GridSampler):
    """`steps` calls of the network.

    score_temperature: above 0; 1 leaves the model's estimate as it is.
    """

    score_temperature: float = 1.0
    requires: ClassVar[type] = GaussianProcess
    lacking: ClassVar[str] = "the noise is not normal noise on embeddings"

    def __post_init__(self):
        super().__post_init__()
        if not self.score_temperature > 0:
            raise ValueError(
                f"MeanAncestral.score_temperature = {self.score_temperature} must be positive"
            )

    def compatibility(self, process):
        if self.score_temperature != 1:
            why = "the score is multiplied by 1 / score_temperature"
            return self.unsupported(process) or Compatibility("approximate", why)
        return self.unsupported(process) or Compatibility(
            "exact", "normal steps about the mean embedding"
        )

    def step(self, key, process: GaussianProcess, model, z, t, s):
        key_step, key_tokens = split(key)
        log_p0 = process.predict(model(z, t), z, t)
        x0 = categorical(key_tokens, log_p0)
        x = process.sharpened(process.mean(log_p0), z, t, self.score_temperature)
        moved = process.bridge_to(key_step, x, z, t, s)
        return jnp.where((s > 0)[..., None], moved, process.space.pure(x0).astype(z.dtype)), x0
