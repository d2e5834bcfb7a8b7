"""The sampling loop of samplers on a grid of times: from z_1 down to x0, for all processes.

A sampler is a frozen dataclass with `sample`. Those on a grid have `times` and `step`, and share one
loop, which runs under `jax.jit` as one program (`lax.scan` over the grid).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.process import Model, Process
from diffusion.random import fold_in, split


class Sampler(Protocol):
    needs: ClassVar[tuple[str, ...]]  # the methods of the process that it calls

    def calls(self, process: Process, length: int) -> int:
        """How often the network is called for `length` tokens."""

    def sample(
        self,
        key: Array,
        process: Process,
        model: Model,
        shape: tuple[int, int],
        given: Array | None = None,
    ) -> Array:
        """Samples x0, int (B, L) = `shape`.

        key: one key, or one per row (B,), in which case a row does not depend on the other rows.
        given: int (B, L), a token where it is given and -1 where it is to be sampled; given tokens
        never change.
        """


@dataclass(frozen=True)
class OnGrid:
    """A sampler of `steps` calls of the network, at times that `grid` places.

    cosine is MD4's (arXiv 2406.04329): small steps at first, when little is known, and larger ones as
    context grows.
    """

    steps: int = 64
    grid: Literal["uniform", "cosine"] = "uniform"
    grids: ClassVar[tuple[str, ...]] = ("uniform", "cosine")

    def __post_init__(self):
        name = type(self).__name__
        if self.steps < 1:
            raise ValueError(f"{name}.steps = {self.steps} must be at least 1")
        if self.grid not in self.grids:
            known = " or ".join(map(repr, self.grids))
            raise ValueError(f"{name}.grid = {self.grid!r} is not {known}")

    def calls(self, process, length):
        return self.steps

    def times(self) -> Array:
        """(steps + 1,) times, falling from 1 to 0."""
        u = jnp.arange(self.steps, -1, -1) / self.steps
        return u if self.grid == "uniform" else jnp.sin(jnp.pi / 2 * u)

    def step(self, key, process, model, z, t, s) -> tuple[Array, Array]:
        """(z_s, guess of x0), from z at time t; t and s are (B, 1)."""
        raise NotImplementedError

    def sample(self, key, process, model, shape, given=None, start=None):
        """As `Sampler.sample`; start is z at the first of `times`, in place of a draw of the prior.

        Given tokens stand in the state from the start, clean. For an absorbing process this is its own
        conditional law, because a revealed token is never masked again; likewise on the simplex, where
        a corner is a certain token at any t (for a network, in so far as it knows corners: at time t it
        was trained on noisy neighbours). For other kernels it is an approximation, for the same reason.
        """

        def clamp(z):
            if given is None:
                return z
            if z.ndim == 2:
                return jnp.where(given >= 0, given, z)
            corner = jax.nn.one_hot(given, z.shape[-1], dtype=z.dtype)
            return jnp.where((given >= 0)[..., None], corner, z)

        key_prior, key_steps = split(key)
        times = jnp.broadcast_to(self.times()[:, None, None], (self.steps + 1, shape[0], 1))

        def body(carry, step):
            z, _ = carry
            number, t, s = step
            z, x0 = self.step(fold_in(key_steps, number), process, model, z, t, s)
            return (clamp(z), clamp(x0).astype(jnp.int32)), None

        start = clamp(process.prior(key_prior, shape) if start is None else start)
        steps = (jnp.arange(self.steps), times[:-1], times[1:])
        (_, x0), _ = jax.lax.scan(body, (start, jnp.zeros(shape, jnp.int32)), steps)
        return x0
