"""How fast a conditional Dirichlet path moves towards its token: the coefficient of its vector field.

Along p_a(x | e_i) = Dir(1 + (a - 1) e_i) on the simplex of V categories the component x_i has the
distribution Beta(a, b), b = V - 1, and the field u = c(x_i, a) (e_i - x) carries the path (Dirichlet
flow matching, arXiv 2402.05841) when

    c(x, a) = -d/da I_x(a, b) B(a, b) / ((1 - x)^b x^(a-1)),    I the regularised incomplete beta.

No library at hand differentiates I in a, and a difference quotient loses its digits at both ends. Since
d/da of the density is the density times (log x - E), E = psi(a) - psi(a + b) = -sum_(k<b) 1 / (a + k)
being the mean of log x, and its integral is 0, both of

    c(x, a) / x = (1-x)^-b int_0^1 u^(a-1) (1 - x u)^(b-1) (E - log(x u)) du                  log x < E
                = x^-a int_0^1 v^(b-1) (1 - (1-x) v)^(a-1) (log(1 - (1-x) v) - E) dv          log x > E

hold, and each is a sum of positive terms on its own side: no cancellation anywhere, and finite limits,
c / x -> (E - log x) / a + 1 / a^2 as x -> 0, and c -> -E / b at x = 1. `quadrature` is that, in float64.

What runs is an interpolation of h = a c / x / (1 - log x), which is of order 1 throughout, by Chebyshev
polynomials in log x and log a: sums of products, no gather, differentiable, equally at home on CPU, GPU
and TPU. Below the least tabulated x, c / x is the limit above. Accuracy, measured against 40-digit
arithmetic and by `tests/test_golden_dirichlet.py`: docs/measurements.md.
"""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import Array

_DEGREE_X, _DEGREE_A = 72, 24
_PANELS, _ORDER = 48, 16
_LEAST = 1e-8  # (V - 1) x at the lower end of the table, where its limit is right to that


def quadrature(x: np.ndarray, a: np.ndarray, vocab_size: int) -> np.ndarray:
    """c(x, a) / x in float64, of the shape of x and a together; 0 < x <= 1, a >= 1."""
    x, a = np.broadcast_arrays(np.float64(x), np.float64(a))
    x, a, b = x[..., None], a[..., None], vocab_size - 1
    mean = mean_log(a, vocab_size)
    nodes, weights = np.polynomial.legendre.leggauss(_ORDER)
    s = (np.arange(_PANELS)[:, None] + (nodes + 1) / 2).ravel() / _PANELS * 45  # e^-45 is nothing
    weights = np.tile(weights, _PANELS) / 2 / _PANELS * 45
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # u = exp(-s / a) and v = exp(-s / b) take the powers of u and v, and their end at 0, away
        shrunk = x * np.exp(-s / a)
        log_f = (b - 1) * np.log1p(-shrunk) - b * np.log1p(-x)
        below = np.exp(log_f - s) * (mean - np.log(shrunk)) / a
        part = (1 - x) * np.exp(-s / b)
        log_f = (a - 1) * np.log1p(-part) - a * np.log(x)
        above = np.exp(log_f - s) * (np.log1p(-part) - mean) / b
    return np.where(np.log(x) < mean, below, above) @ weights


def mean_log(a: np.ndarray, vocab_size: int) -> np.ndarray:
    """E[log x_i] = psi(a) - psi(a + V - 1), of the shape of a, as the sum of V - 1 terms that it is."""
    total = np.zeros(())
    for first in range(0, vocab_size - 1, 4096):
        k = np.arange(first, min(first + 4096, vocab_size - 1))
        total = total - (1 / (np.asarray(a)[..., None] + k)).sum(-1)
    return total


@lru_cache(maxsize=32)
def table(vocab_size: int, highest: float) -> np.ndarray:
    """Chebyshev coefficients of h in log x (rows) and log a (columns), for 1 <= a <= highest."""
    points_x, points_a = (
        np.cos(np.pi * (np.arange(n + 1) + 0.5) / (n + 1)) for n in (_DEGREE_X, _DEGREE_A)
    )
    log_x = np.log(_LEAST / (vocab_size - 1)) * (1 - points_x) / 2
    a = np.exp(np.log(highest) * (1 + points_a) / 2)[None, :]
    x = np.exp(log_x)[:, None]
    h = a * quadrature(x, a, vocab_size) / (1 - np.log(x))
    transform_x, transform_a = (
        2 / (n + 1) * np.cos(np.outer(np.arange(n + 1), np.pi * (np.arange(n + 1) + 0.5) / (n + 1)))
        for n in (_DEGREE_X, _DEGREE_A)
    )
    coefficients = transform_x @ h @ transform_a.T
    coefficients[0] /= 2
    coefficients[:, 0] /= 2
    needed = np.abs(coefficients) > 1e-11
    return coefficients[
        : np.flatnonzero(needed.any(1))[-1] + 1, : np.flatnonzero(needed.any(0))[-1] + 1
    ]


def coefficient_over_x(x: Array, a: Array, vocab_size: int, highest: float) -> Array:
    """c(x, a) / x for x (B, L, V) in (0, 1] and a (B, 1) or (B, L) in [1, highest]; a above is taken as
    the highest."""
    coefficients = jnp.asarray(table(vocab_size, highest), x.dtype)
    a = jnp.clip(a, 1, highest)
    angles = jnp.arccos(jnp.clip(2 * jnp.log(a) / np.log(highest) - 1, -1, 1))
    degrees = jnp.arange(coefficients.shape[1]).astype(x.dtype)[None, None]
    in_a = jnp.cos(angles[..., None] * degrees)
    in_x = jnp.einsum("bla,xa->xbl", in_a, coefficients, precision="highest")[..., None]
    least = np.log(_LEAST / (vocab_size - 1))
    log_x = jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))
    y = 1 - 2 * jnp.clip(log_x / least, 0, 1)
    now, after = jnp.zeros_like(y), jnp.zeros_like(y)
    for c in in_x[:0:-1]:  # Clenshaw's recurrence
        now, after = c + 2 * y * now - after, now
    h = in_x[0] + y * now - after
    a = a[..., None]
    below = jnp.minimum(log_x - least, 0)  # 0 within the table
    return (h * (1 - jnp.maximum(log_x, least)) - below) / a
