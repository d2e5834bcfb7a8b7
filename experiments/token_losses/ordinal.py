"""A distance for tokens with an order (digits, pitches, grey values): a near miss costs less than a far
one.

    f + w * scale / (K - 1) * sum over k < K of |F_k - [r <= k]|^n

r is the rank of x0 among K tokens in order, F_k the probability that the model gives the first k of
them, given that it is one of them; nothing is added where x0 is none of them.

- n = 2 is the squared earth mover's distance (Hou et al. 2016, arXiv 1611.05916), which is the ranked
  probability score (Epstein 1969). It is proper: the minimum stays where it is, at the true
  q = p(x0 | z_t).
- n = 1 is the Wasserstein distance to x0, the mean of |rank - r|, as in the number token loss (Zausinger
  et al. 2024, arXiv 2411.02083), there with the numbers' own distances. Its minimum is biased towards
  the median: where f is w times the cross-entropy and all tokens are in order,

      p_v (1 + scale (c_v - sum_u p_u c_u) / (K - 1)) = q_v,     c_v = sum_u q_u |v - u|.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import UserError
from experiments.token_losses.process_loss import ProcessLoss
from experiments.token_losses.token_loss import TokenLoss


@dataclass(frozen=True)
class Ordinal(TokenLoss):
    """How far from the token the model's distribution is, in the order of the tokens, added.

    order: ids of the tokens, the smallest first; () takes all, by id. squared: whether n is 2, else 1.
    scale: of what is added, a share of w. inner: the loss that it is added to.
    """

    order: tuple[int, ...] = ()
    squared: bool = True
    scale: float = 1.0
    inner: TokenLoss = ProcessLoss()

    def __post_init__(self):
        if self.scale < 0:
            raise ValueError(f"Ordinal.scale = {self.scale} must not be negative")
        if self.order and (len(set(self.order)) != len(self.order) or len(self.order) < 2):
            raise ValueError(
                f"Ordinal.order = {self.order} must name at least two tokens, each once; () takes all"
            )

    def __call__(self, nats, out, x0, weight):
        ids = np.array(self.order or range(out.shape[-1]))
        if other := [int(i) for i in ids if not 0 <= i < out.shape[-1]]:
            raise UserError(
                f"train.token_loss.order names token {other[0]}, but the data's are 0 to "
                f"{out.shape[-1] - 1}"
            )
        at_least = jnp.cumsum(jax.nn.softmax(out[..., ids]), axis=-1)[..., :-1]
        ordered = jax.nn.one_hot(x0, out.shape[-1], dtype=out.dtype)[..., ids]
        missed = jnp.abs(at_least - jnp.cumsum(ordered, axis=-1)[..., :-1])
        distance = (missed**2 if self.squared else missed).sum(-1) / (len(ids) - 1)
        added = jnp.where(ordered.sum(-1) > 0, weight * self.scale * distance, 0)
        return self.inner(nats, out, x0, weight) + added
