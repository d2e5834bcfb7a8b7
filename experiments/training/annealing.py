"""Attention that opens from causal to full, for a network that was autoregressive and learns to fill in.

At step n of N a position sees those before it and itself, and each later one with probability n / N
(DiffuLLaMA, arXiv 2410.17891). The draw is that of the step, the same for all rows: nothing of it
depends on devices or microbatches. Evaluation and sampling see all positions from the first step on.
"""

import jax
import jax.numpy as jnp
from jax import Array


def visible(key: Array, length: int, share: Array | float) -> Array:
    """bool (L, L): whether a position, of the first axis, sees another; share: of the later ones, 0 is
    causal and 1 full."""
    opened = jax.random.uniform(key, (length, length)) < share
    return opened | jnp.tri(length, dtype=bool)


def opening(key: Array, length: int, step: Array, steps: int) -> dict[str, Array]:
    """The condition of a network at `step`, from 0 on; {} where `steps` is 0, and nothing anneals. key:
    of the step."""
    if steps == 0:
        return {}
    return {"visible": visible(key, length, step / steps)}
