"""What the processes on the simplex share: a state z, (B, L, V), and a network that holds p(x0 | z).

Both Dirichlet paths and Bayesian flows make evidence for the tokens out of log z alone,

    log q(z_t | x0 = v) = evidence(t) log z_v + a constant in v,

with evidence = conc - 1 and 1. Three things follow for all of them: the exact denoiser, how a classifier
guides (`samplers.guidance`), and a head for the network. As published it holds p(x0 | z_t) itself, and
so has to learn the logarithm of its own input; with head="leave_one_out" (see `diffusion.markov`) it
holds what the other positions say, and the position's own evidence is added in closed form. A state is
certain, q = 0 for all tokens but one, when it is a vertex of the simplex, at any t: known tokens stand
in it as vertices.
"""

from abc import abstractmethod
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from diffusion.markov import Head
from diffusion.numerics import log_divide, log_softmax
from diffusion.process import Process
from diffusion.spaces import Simplex


class SimplexProcess(Process):
    """What of `Process` they share; a subclass adds prior, corrupt, token_loss, bridge and
    log_likelihood."""

    vocab_size: int | None
    head: Head
    """What the network holds: "posterior", p(x0 | z_t), or "leave_one_out" (above)."""
    states: ClassVar[str] = "simplex"
    known_tokens: ClassVar[str] = "vertices"

    @property
    def space(self) -> Simplex:
        return Simplex(self.num_tokens)

    def predict(self, out: Array, z: Array, t: Array) -> Array:
        if self.head == "posterior":
            return log_softmax(out)
        return log_softmax(log_softmax(out) + self.log_likelihood(z, t))

    def invert_predict(self, log_p0: Array, z: Array, t: Array) -> Array:
        return log_p0 if self.head == "posterior" else log_divide(log_p0, self.log_likelihood(z, t))

    def check_size(self) -> None:
        """ValueError for a size that is no simplex."""
        if self.vocab_size is not None and self.vocab_size < 2:
            name = type(self).__name__
            raise ValueError(f"{name}.vocab_size = {self.vocab_size} must be at least 2")


class EvidenceProcess(SimplexProcess):
    """A process whose states are evidence for the tokens, as above."""

    @abstractmethod
    def evidence(self, t: Array) -> Array:
        """How much log z_v counts for token v, of the shape of t."""

    def log_likelihood(self, z: Array, t: Array) -> Array:
        return self.evidence(t)[..., None] * log_state(z)


def log_state(z: Array) -> Array:
    """log z, with the smallest number of its type in place of 0."""
    return jnp.log(jnp.maximum(z, jnp.finfo(z.dtype).tiny))


def project(p: Array) -> Array:
    """The point of the simplex nearest to p (..., V) in the Euclidean distance."""
    # The same point is nearest; what is further below the largest is 0. No digit is lost beside large p.
    p = jnp.maximum(p - p.max(-1, keepdims=True), -1)
    falling = -jnp.sort(-p, axis=-1)
    number = jnp.arange(1, p.shape[-1] + 1).astype(p.dtype)
    excess = (jnp.cumsum(falling, axis=-1) - 1) / number.reshape((1,) * (p.ndim - 1) + (-1,))
    kept = jnp.sum(falling > excess, axis=-1, keepdims=True)
    return jnp.maximum(p - jnp.take_along_axis(excess, kept - 1, axis=-1), 0)
