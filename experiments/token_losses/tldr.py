"""TLDR (Jiang et al. 2020, arXiv 2003.11963): a token counts by the cosine of its probability, much
where it is hard and hardly where it is easy.

    (1 + cos(pi p_x0)) f,     p = softmax(out), with the gradient through both factors

Its minimum is biased: flatter than the true q = p(x0 | z_t), which is meant to make a model repeat
itself less. Where f is w times the cross-entropy of two tokens, q : 1 - q is learned as p : 1 - p with

    q g(p) = (1 - q) g(1 - p),     g(p) = (1 + cos(pi p)) / p - pi sin(pi p) log p.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffusion.numerics import gather_last
from experiments.token_losses.process_loss import ProcessLoss
from experiments.token_losses.token_loss import TokenLoss


@dataclass(frozen=True)
class TLDR(TokenLoss):
    """Twice the loss of what is improbable, nothing of what is sure.

    inner: the loss that is multiplied.
    """

    inner: TokenLoss = ProcessLoss()

    def __call__(self, nats, out, x0, weight):
        p = jnp.exp(gather_last(out, x0) - jax.nn.logsumexp(out, axis=-1))
        return (1 + jnp.cos(jnp.pi * p)) * self.inner(nats, out, x0, weight)
