"""Ancestral sampling with the mean embedding: z_s from q(z_s | z_t, xhat) (VDM, arXiv 2107.00630).

Where `samplers.ancestral` draws a token at each step, this takes the mean of all tokens, weighed by the
model, in its place: a normal step, whose error falls with its length. With score_temperature tau < 1 the
noise that the model sees in z_t is exaggerated, eps / tau, as Plaid (arXiv 2305.18619) samples with 0.9:

    xhat <- (z_t - sigma_t eps / tau) / alpha_t = xhat + (1 - 1 / tau) sigma_t / alpha_t eps.

The last step, to t = 0, draws the tokens from p(x0 | z_t), each on its own.

Difformer (arXiv 2212.09412) decodes so in few steps. It takes for each token the one whose embedding is
nearest to xhat, in the last step (rounding = "last") or in every step, whose xhat is then that embedding
("always": the clamping trick of Diffusion-LM, arXiv 2205.14217). It may also stop early, with the last
call of the network at t = `end`: 15 steps and end = 0.3 are its 20 steps without the last five.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from diffusion.gaussian import GaussianProcess
from diffusion.random import categorical, split
from samplers.sampler import Compatibility, GridSampler

Rounding = Literal["drawn", "last", "always"]


@dataclass(frozen=True)
class MeanAncestral(GridSampler):
    """`steps` calls of the network.

    score_temperature: above 0; 1 leaves the model's estimate as it is. rounding: whether tokens are
    drawn, or the nearest embeddings are taken in the last step or in all (above). end: the t of the last
    call, on a uniform grid; None leaves it to the grid.
    """

    score_temperature: float = 1.0
    rounding: Rounding = "drawn"
    end: float | None = None
    requires: ClassVar[type] = GaussianProcess
    lacking: ClassVar[str] = "the noise is not normal noise on embeddings"

    def __post_init__(self):
        super().__post_init__()
        if not self.score_temperature > 0:
            raise ValueError(
                f"MeanAncestral.score_temperature = {self.score_temperature} must be positive"
            )
        if self.end is not None and not 0 < self.end < 1:
            raise ValueError(f"MeanAncestral.end = {self.end} is outside (0, 1)")
        if self.end is not None and self.grid != "uniform":
            raise ValueError(
                f"MeanAncestral.end = {self.end} is the last time of grid = 'uniform', and grid is "
                f"{self.grid!r}; leave one of them as it is"
            )

    def compatibility(self, process):
        why = ""
        if self.score_temperature != 1:
            why = "the score is multiplied by 1 / score_temperature"
        elif self.rounding != "drawn":
            why = "the nearest embedding is taken in place of a draw"
        elif self.end is not None:
            why = "tokens are drawn apart at t = end, with noise left"
        found = Compatibility("exact", "normal steps about the mean embedding")
        return self.unsupported(process) or (Compatibility("approximate", why) if why else found)

    def times(self):
        if self.end is None:
            return super().times()
        return jnp.append(jnp.linspace(1, self.end, self.steps), 0.0)

    def step(self, key, process: GaussianProcess, model, z, t, s):
        key_step, key_tokens = split(key)
        log_p0 = process.predict(model(z, t), z, t)
        x = process.sharpened(process.mean(log_p0), z, t, self.score_temperature)
        drawn = self.rounding == "drawn"
        x0 = categorical(key_tokens, log_p0) if drawn else _nearest(process, x, log_p0)
        certain = process.space.pure(x0).astype(z.dtype)
        moved = process.bridge_to(key_step, certain if self.rounding == "always" else x, z, t, s)
        return jnp.where((s > 0)[..., None], moved, certain), x0


def _nearest(process, x, log_p0):
    """The tokens whose embeddings are nearest to x (B, L, D), of those that are possible."""
    table = process.embeddings.astype(x.dtype)
    closeness = x @ table.T - (table**2).sum(-1)[None, None] / 2
    return jnp.where(log_p0 > -jnp.inf, closeness, -jnp.inf).argmax(-1)
