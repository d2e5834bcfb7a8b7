"""Where the nats of a bound are: in which term, at which times and at which positions.

The sums over times and over positions are those of the term: the same draws, added up another way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TENTHS = 10


class Nats(NamedTuple):
    """What is computed of a batch of B sequences at K times each.

    terms {name: (B, K)}: nats summed over positions; by_position {name: (B, T)}: the mean over times,
    summed over each of T equal parts of the positions; times (B, K) in (0, 1), 0 is data; None where the
    terms are of no times.
    """

    terms: Mapping[str, jax.Array]
    by_position: Mapping[str, jax.Array]
    times: jax.Array | None


@dataclass(frozen=True)
class Breakdown:
    """Nats per token of each term: in all; at_times, in each tenth of time, 0 is data, empty where they
    are of none; at_positions, in each tenth of the positions of a sequence, or of each of fewer than
    ten."""

    terms: dict[str, float]
    at_times: dict[str, list[float]]
    at_positions: dict[str, list[float]]

    def metrics(self) -> dict[str, float]:
        """The parts by the names of metrics, each the sum over terms, "eval_at_times/0.3-0.4": 0.12."""
        found = {}
        for kind, parts in (("at_times", self.at_times), ("at_positions", self.at_positions)):
            values = [sum(of_terms) for of_terms in zip(*parts.values(), strict=True)]
            edges = [k / len(values) for k in range(len(values) + 1)] if values else []
            for value, (low, high) in zip(values, pairwise(edges), strict=True):
                found[f"eval_{kind}/{low:.1f}-{high:.1f}"] = value
        return found


def mean_breakdown(parts: Sequence[Breakdown], weights: Sequence[float]) -> Breakdown:
    """The mean over texts, by weights that sum to 1."""

    def mean(*values):
        return sum(w * v for w, v in zip(weights, values, strict=True))

    every = ((part.terms, part.at_times, part.at_positions) for part in parts)
    return Breakdown(*jax.tree.map(mean, *every))


def in_parts(nats: jax.Array, length: int) -> jax.Array:
    """(B, T): nats (B, L) summed over each of T equal parts of so many positions, of which a tail has
    the first."""
    edges = np.linspace(0, length, min(TENTHS, length) + 1).round().astype(int)
    return jnp.stack([nats[:, a:b].sum(1) for a, b in pairwise(edges)], axis=1)


def at_times(nats: Mapping[str, np.ndarray], times: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """{name: (10,)}: the mean over times of nats {name: (N, K)}, those in each tenth of the times, which
    come in parts (n, K); empty without times."""
    if not times:
        return {}
    tenth = np.minimum((np.concatenate(times) * TENTHS).astype(int), TENTHS - 1)
    return {
        name: np.bincount(tenth.ravel(), values.ravel(), TENTHS) / tenth.shape[1]
        for name, values in nats.items()
    }
