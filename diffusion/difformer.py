"""Difformer: embedding diffusion kept from collapse by an anchor (Gao et al., arXiv 2212.09412).

The process is that of `diffusion.gaussian`. Its noise is F times as large as its schedule says
(`NoiseRescaled`), and the network says a distribution p of each token, whose mean embedding is xhat. The
training loss is not the bound. At t uniform, with embeddings x = e(x0) of width D,

    loss = |x - xhat|^2 / D + CE(x0, softmax(xhat.E / sqrt(D))),

the second term the *anchor*. The first alone is 0 where all embeddings are the same. The cross entropy
of the embedding that was predicted keeps them apart, and its gradient reaches the network and the
embeddings alike; that of the true embedding, the rounding loss of Diffusion-LM, is content with
embeddings that are just not equal.

What the loss is least at is not E[x | z]: where all sums go over the tokens,

    squares   want   xhat = sum_v p(v | z) E_v,
    anchor    wants  sum_v softmax(xhat.E / sqrt(D))_v E_v = sum_v p(v | z) E_v,

and where z leaves more than one token possible the two differ. So the bound of a network trained to the
end stays above that of the exact denoiser. Label smoothing moves the minimum even where z leaves no
doubt, towards the mean of all embeddings, and the bound multiplies that error by the SNR: of 27 tokens
with random embeddings and the defaults here, which are those published, a third of the weight of xhat
goes to wrong tokens, and costs some 58 nats a token. The configs smooth nothing. F biases nothing: it
chooses which noise is seen, and at which -log SNR the bound begins and ends, that of the schedule
+ 2 log F.

The bound, which the paper does not report, is that of `diffusion.gaussian`. It does not depend on how
times are spread, and is estimated at times that are uniform in -log SNR: under the square-root schedule,
uniform t would almost never see the small noise where much of it lies.

Otherwise than published: there xhat is what the network puts out, not a mean, and may lie anywhere; the
state is not scaled back to variance 1 after F; self-conditioning takes the estimate of the step before
where samplers here make two passes over one state; the text that is translated has an encoder of its
own, and its length is predicted. Scripts of the published code normalise what the network reads instead
of the embeddings, as the paper describes it: normalisation = "none" leaves the embeddings free.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jax import Array

from diffusion.embedded import OwnLoss
from diffusion.gaussian import GivenEmbeddings, LearnedEmbeddings
from diffusion.log_snr import LogSNR, NoiseRescaled
from diffusion.markov import Head
from diffusion.model import Model
from diffusion.numerics import gather_last, log_softmax


@dataclass(frozen=True)
class Difformer(OwnLoss):
    """Diffusion of anchored embeddings, each ingredient a setting.

    embedding: of the tokens, learned or given. schedule: -log SNR by time, one that is not learned; of
    `NoiseRescaled`, factor is F. head: "posterior", as published, or "leave_one_out", which adds what z
    says of its own token. self_conditioning: the share of rows that is trained with an estimate as
    second input; 0 is a network without one. anchor: whether the cross entropy is that of the
    "predicted" embedding, of the "true" one (the rounding loss), or there is "none". label_smoothing:
    the share of the cross entropy that is spread over all tokens.
    """

    vocab_size: int | None = None
    embedding: LearnedEmbeddings | GivenEmbeddings = LearnedEmbeddings(128, "layer")
    schedule: LogSNR = NoiseRescaled()
    head: Head = "posterior"
    self_conditioning: float = 0.5
    anchor: Literal["predicted", "true", "none"] = "predicted"
    label_smoothing: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"Difformer.label_smoothing = {self.label_smoothing} is outside [0, 1)"
            )

    def loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        return self.anchored(self.predicted(key, model, x0, u), x0)

    def anchored(self, log_p0: Array, x0: Array) -> Array:
        """|x - xhat|^2 / D and the cross entropy, (B, L), of what the network says."""
        x, guess = self.embeddings[x0], self.mean(log_p0)
        squares = jnp.mean((x - guess) ** 2, axis=-1)
        if self.anchor == "none":
            return squares
        log_p = self.rounded(guess if self.anchor == "predicted" else x)
        smoothed = self.label_smoothing * log_p.mean(-1)
        return squares - (1 - self.label_smoothing) * gather_last(log_p, x0) - smoothed

    def rounded(self, x: Array) -> Array:
        """log softmax(x.E / sqrt(D)), (B, L, V): which tokens an embedding x (B, L, D) may be."""
        table = self.embeddings.astype(x.dtype)
        return log_softmax(x @ table.T / table.shape[1] ** 0.5)
