"""Words that a sample has to contain, at places of the model's choosing.

Before sampling, each word in turn is put where the model gives it most: with the start z_1 and what is
known so far, place i is drawn with probability proportional to prod_j p(x0^(i+j) = word_j | z_1) over
the places that are free. What was placed is known from then on, so every process and sampler that takes
known tokens takes required words, and they are certain to occur. Each word costs one call of the
network. This is not the distribution of the model given that the word occurs, in which the rest of the
text decides on the place too and which may hold it twice.
"""

from collections.abc import Sequence, Sized

import jax.numpy as jnp
from jax import Array

from diffusion.model import Model
from diffusion.process import Process
from diffusion.random import categorical, fold_in, split


def place(
    key: Array, process: Process, model: Model, known: Array, words: Sequence[Sequence[int]]
) -> Array:
    """known, int (B, L), with each word, a sequence of tokens, written into blanks (-1)."""
    rows, length = known.shape
    for number, word in enumerate(words):
        key_prior, key_place = split(fold_in(key, number))
        z = process.prior(key_prior, (rows, length))
        z = process.space.clamp(z, known)
        t = jnp.ones((known.shape[0], 1))
        log_p0 = process.predict(model(z, t), z, t)
        starts = jnp.arange(known.shape[1] - len(word) + 1)
        columns = starts[:, None] + jnp.arange(len(word))[None]  # (starts, word)
        score = log_p0[:, columns, jnp.asarray(word)[None]].sum(-1)
        free = (known[:, columns] < 0).all(-1)
        # A word that the model thinks impossible is placed all the same.
        chosen = categorical(
            key_place, jnp.where(free, jnp.maximum(score, -1e4), -jnp.inf)[:, None]
        )
        at = jnp.arange(known.shape[1])[None] - chosen
        inside = (at >= 0) & (at < len(word))
        known = jnp.where(inside, jnp.asarray(word)[jnp.clip(at, 0, len(word) - 1)], known)
    return known


def fits(blank: Sequence[bool], words: Sequence[Sized]) -> bool:
    """Whether the words find room, wherever those before them were put."""
    length = len(blank)
    for number, word in enumerate(words):
        size = len(word)
        starts = sum(all(blank[i : i + size]) for i in range(length - size + 1))
        if starts <= sum(len(earlier) + size - 1 for earlier in words[:number]):
            return False
    return True
