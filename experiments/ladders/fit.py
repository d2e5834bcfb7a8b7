"""The loss of a model of N parameters after D tokens (Hoffmann et al., arXiv 2203.15556):

    L(N, D) = E + A / N^a + B / D^b.

E, A, a, B, b > 0 minimise the sum of squares of log L(N, D) - log L over the measured points, from many
starts. No point is discounted (Hoffmann et al. have Huber's loss). Intervals are by a parametric
bootstrap: points are drawn about the fit and fitted again, many times, with normal noise in log L. Its
variance is that of the residuals, sum r^2 / (n - 5), times (n - 5) / chi^2_{n - 5}, drawn each time,
since few points say little of the noise.

With FLOPs C proportional to N D the best N at C grows as C^(b / (a + b)).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

_STEEPNESS = 5.0  # an exponent is known if the ends of its interval are within this factor
_SPAN = (2.5, 97.5)  # percent: the ends of an interval


class Undetermined(ValueError):
    """The points do not determine the fit; its text says why."""


@dataclass(frozen=True)
class Fit:
    """E, A, a, B, b and, of the bootstrap, K draws of them, (K, 5), with the noise of each, (K,), the
    standard deviation of log L."""

    constants: np.ndarray
    noise: float
    draws: np.ndarray
    draws_noise: np.ndarray

    def loss(self, n: float, d: float) -> float:
        """L(N, D)."""
        return float(_loss(self.constants, n, d))

    def interval(self, name: str) -> tuple[float, float, float]:
        """(value, low, high) of E, A, a, B or b, or of "best", b / (a + b); 95 %."""
        values = [_named(c, name) for c in (self.constants, self.draws)]
        low, high = np.percentile(values[1], _SPAN)
        return float(values[0]), float(low), float(high)

    def predict(self, n: float, d: float, seed: int = 0) -> tuple[float, float, float]:
        """(L(N, D), low, high): 95 % of what a run would measure, its own noise included, on the same
        text."""
        own = np.random.default_rng(seed).normal(size=len(self.draws)) * self.draws_noise
        low, high = np.percentile(_loss(self.draws.T, n, d) * np.exp(own), _SPAN)
        return self.loss(n, d), float(low), float(high)


def fit(
    n: Sequence[float], d: Sequence[float], loss: Sequence[float], draws: int = 400, seed: int = 0
) -> Fit:
    """The fit to points of N parameters, D tokens and the loss, in any unit. Undetermined where they are
    too few, or exponents are not known to a factor of 5."""
    sizes, tokens, losses = (np.asarray(x, float) for x in (n, d, loss))
    _check_points(sizes, tokens, losses)
    log_n, log_d, log_loss = np.log(sizes), np.log(tokens), np.log(losses)
    centre = log_n.mean(), log_d.mean()
    x, y = log_n - centre[0], log_d - centre[1]
    best = min((_solve(start, x, y, log_loss) for start in _starts(log_loss)), key=lambda s: s[1])
    theta, squares = best
    free = len(losses) - 5
    noise = math.sqrt(2 * squares / free)
    rng, made = np.random.default_rng(seed), _log_loss(theta, x, y)[0]
    spreads = noise * np.sqrt(free / rng.chisquare(free, draws))
    again = [_solve(theta, x, y, made + s * rng.normal(size=len(x)))[0] for s in spreads]
    found = Fit(
        _constants(theta, centre),
        noise,
        np.stack([_constants(theta, centre) for theta in again]),
        spreads,
    )
    for name, of in (("a", "parameters"), ("b", "tokens")):
        value, low, high = found.interval(name)
        if not high <= _STEEPNESS * low:
            raise Undetermined(
                f"the exponent of {of} is not known: {value:.2g}, with 95 % from {low:.2g} to "
                f"{high:.2g}; add sizes and budgets, further apart"
            )
    return found


def _check_points(sizes: np.ndarray, tokens: np.ndarray, losses: np.ndarray) -> None:
    if len(losses) < 6:
        raise Undetermined(
            f"runs: {len(losses)}, but five constants and their noise need at least 6; add sizes or "
            "budgets"
        )
    for values, what in ((sizes, "sizes"), (tokens, "numbers of tokens")):
        if len(np.unique(values)) < 3:
            raise Undetermined(
                f"different {what}: {len(np.unique(values))}, but an exponent needs at least 3"
            )


def _starts(log_loss: np.ndarray) -> list[np.ndarray]:
    """log E, log A', log a, log B', log b to begin with; A' and B' are the terms at the centre."""
    shift = log_loss.min() * np.array([1, 1, 0, 1, 0])
    return [
        shift + np.log([e, u, a, v, b])
        for e in (0.3, 0.9)
        for u in (0.03, 0.3)
        for v in (0.03, 0.3)
        for a in (0.1, 0.3, 1.0)
        for b in (0.1, 0.3, 1.0)
    ]


def _solve(
    start: np.ndarray, x: np.ndarray, y: np.ndarray, log_loss: np.ndarray
) -> tuple[np.ndarray, float]:
    """(theta, half the sum of squares) of the least squares from a start."""
    from scipy.optimize import least_squares

    with np.errstate(all="ignore"):
        found = least_squares(
            lambda theta: _log_loss(theta, x, y)[0] - log_loss,
            start,
            cast(Any, lambda theta: _log_loss(theta, x, y)[1]),  # its stub knows names alone
            method="lm",
            max_nfev=100,
        )
    return found.x, float(found.cost)


def _log_loss(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log L (n,), its derivatives (n, 5)) at log N = x and log D = y about their centre."""
    e, u, log_a, v, log_b = np.clip(theta, -40, 40)
    a, b = math.exp(log_a), math.exp(log_b)
    terms = np.stack([np.full_like(x, e), u - a * x, v - b * y])
    top = terms.max(0)
    total = top + np.log(np.exp(terms - top).sum(0))
    e_share, a_share, b_share = np.exp(terms - total)
    columns = [e_share, a_share, -a * x * a_share, b_share, -b * y * b_share]
    return total, np.stack(columns, axis=1)


def _constants(theta: np.ndarray, centre: tuple[float, float]) -> np.ndarray:
    """E, A, a, B, b."""
    with np.errstate(over="ignore"):
        e, u, log_a, v, log_b = np.clip(theta, -40, 40)
        a, b = np.exp(log_a), np.exp(log_b)
        return np.array([np.exp(e), np.exp(u + a * centre[0]), a, np.exp(v + b * centre[1]), b])


def _loss(constants: np.ndarray, n: float, d: float) -> np.ndarray:
    e, a_factor, a, b_factor, b = constants
    with np.errstate(over="ignore"):
        return (
            e
            + np.exp(np.log(a_factor) - a * math.log(n))
            + np.exp(np.log(b_factor) - b * math.log(d))
        )


def _named(constants: np.ndarray, name: str) -> np.ndarray:
    values = dict(zip("EAaBb", np.moveaxis(constants, -1, 0), strict=True))
    return values["b"] / (values["a"] + values["b"]) if name == "best" else values[name]
