"""MAUVE (arXiv 2102.01454): how near two sets of texts are as clouds of points, 1 where they are alike.

The points are a scorer's hidden states, so values by different scorers do not compare. The number of
clusters is a tenth of that of texts; with few texts it says little, and two sets of real text show how
much of it is noise.
"""

from collections.abc import Callable

import numpy as np

from experiments.errors import UserError

FEWEST = 20  # texts; the package's default of a tenth of them then makes two clusters


def load_mauve(num: int) -> Callable[[np.ndarray, np.ndarray], float]:
    """mauve(points (N, D), points (M, D)) of the mauve-text package, with its defaults; UserError where
    that is not installed or `num` texts are too few."""
    if num < FEWEST:
        raise UserError(
            f"--mauve: {num} samples are fewer than {FEWEST}; draw more (published values take 1000 "
            "and more), or leave it out"
        )
    try:
        from mauve import compute_mauve  # pyright: ignore[reportMissingImports]  # of an extra
    except ImportError as error:
        raise UserError(
            '--mauve needs mauve-text; in the repository: pip install -e ".[mauve]"'
        ) from error
    return lambda p, q: float(compute_mauve(p_features=p, q_features=q, verbose=False).mauve)
