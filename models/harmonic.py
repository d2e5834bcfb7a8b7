"""Harmonic loss (Baek et al. 2025, arXiv 2502.01628): tokens are points, and one is the more probable
the nearer it is to the hidden state.

    p_v = |x - w_v|^(-n) / sum over u of |x - w_u|^(-n),     logits  -n/2 log(|x - w_v|^2 + floor D)

The loss stays the process's own, of these logits: p is a distribution, and the bound a bound, of another
family of models. The minimum stays where it is, as far as D numbers can say it. It is reached at finite
vectors, up to the floor, even where a token is certain: at the token's own point.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from models.readout import Readout


@dataclass(frozen=True)
class Harmonic(Readout):
    """Minus a multiple of the logarithm of the distance. It takes no bias.

    power: n; None takes D^(1/2), about as published. floor: times D, what is added to squared distances;
    ours, for a gradient that stays finite at the point itself.
    """

    power: float | None = None
    floor: float = 1e-4
    has_bias: ClassVar[bool] = False

    def __post_init__(self):
        if self.power is not None and self.power <= 0:
            raise ValueError(f"Harmonic.power = {self.power} must be above 0, or None")
        if self.floor <= 0:
            raise ValueError(f"Harmonic.floor = {self.floor} must be above 0")

    def __call__(self, x, kernel, bias):
        products = jnp.matmul(x, kernel, preferred_element_type=jnp.float32)
        x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
        squares = (x**2).sum(1, keepdims=True) + (kernel**2).sum(0)[None] - 2 * products
        width = x.shape[1]
        power = width**0.5 if self.power is None else self.power
        return -power / 2 * jnp.log(jnp.maximum(squares, 0) + self.floor * width)
