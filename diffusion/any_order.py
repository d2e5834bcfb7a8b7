"""The likelihood of a masked model as an autoregressive one in random order, `group` tokens at a time.

For every order of the positions, -log p(x0) <= sum over groups -sum_(i in group) log p(x0^i | what was
revealed before), with equality for a consistent model and groups of one. In the mean over orders this
needs only the number of revealed tokens: with m of L masked, a group is a random choice of them, so

    bound = mean over n of G min(group, m) / m * sum_(masked) -log p(x0^i | z),   m = L - n group

with exactly m random positions masked, n = 0..G-1 and G = ceil(L / group). At group 1 the mean is that
of the continuous-time bound of MDLM (for a network without time), by another estimator, with none of the
variance of the number of masked tokens. Larger groups give the bound of a sampler that reveals as many
tokens per call, independently of each other.

Of rows that hold several texts and padding (`model.segments`, 0 for padding), L is the number of tokens
of a row without its padding. Where some tokens x are known, they stand clean in z and L is the number
of the others, y: then it is the bound of -log p(y | x). With one token at a time that is the
likelihood protocol of LLaDA (arXiv 2502.09992), with its numbers of masked tokens stratified. A network
with time is asked at the share of masks among all tokens of the row, as samplers ask it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.model import RowModel, at_positions
from diffusion.numerics import gather_last
from diffusion.process import Objective, Process, mask_schedule
from diffusion.random import split, uniform
from diffusion.schedules import time_of


@dataclass(frozen=True)
class AnyOrder:
    """The any-order bound of the network of `base`, a masked process in continuous time.

    base: the process. group: how many tokens a call reveals, independently of each other. known: bool
    (B, L), the tokens that are given; None for none.
    """

    base: Objective
    group: int = 1
    known: Array | None = None

    def __post_init__(self):
        _check(self)

    def bound_terms(self, key: Array, model: RowModel, x0: Array, u: Array) -> dict[str, Array]:
        """As `Objective.bound_terms`; u (B, 1) chooses how many groups are revealed."""
        base, (real, rank) = _masked(self.base), _order(key, model, x0, self.known)
        length, whole = _lengths(real, self.known)
        groups = -(-length // self.group)
        revealed = jnp.floor(u * groups) * self.group  # (B, 1)
        z = jnp.where(rank < revealed, x0, base.num_tokens)
        masked = length - revealed
        t = time_of(mask_schedule(base), jnp.log(masked / whole))
        counted = (rank >= revealed) & real

        def nats(out, x0, z, t):
            return -gather_last(base.predict(out, z, t), x0)

        weight = groups * jnp.minimum(self.group, masked) / jnp.maximum(masked, 1)
        return {"any order": weight * at_positions(model, nats, counted, x0, z, t)}


@dataclass(frozen=True)
class RandomOrders:
    """The same likelihood with whole orders, the logarithm outside of their mean (arXiv 1509.00519):

        -log p(x0) <= -E log (1 / K) sum_k p(x0 in order k),   K = `orders`

    for the distribution of the sampler that draws an order at random and reveals `group` tokens a call.
    It is the tighter the more orders, and exact in the limit; at K = 1 its mean is that of `AnyOrder`.
    An order takes ceil(L / group) calls of the network.

    base, group, known: as of `AnyOrder`. orders: K, how many random orders each sequence is given.
    """

    base: Objective
    group: int = 1
    orders: int = 4
    known: Array | None = None

    def __post_init__(self):
        _check(self)
        if self.orders < 1:
            raise ValueError(f"orders = {self.orders} must be at least 1")

    def bound_terms(self, key: Array, model: RowModel, x0: Array, u: Array) -> dict[str, Array]:
        """As `Objective.bound_terms`, the nats of a sequence spread over its tokens evenly."""
        base, (real, _) = _masked(self.base), _order(key, model, x0, self.known)
        length, whole = _lengths(real, self.known)

        def log_p(key):
            _, rank = _order(key, model, x0, self.known)

            def one(total, first):
                z = jnp.where(rank < first, x0, base.num_tokens)
                masked = jnp.maximum(length - first, 1)
                t = time_of(mask_schedule(base), jnp.log(masked / whole))
                log_p0 = gather_last(base.predict(model(z, t), z, t), x0)
                now = (rank >= first) & (rank < first + self.group) & real
                return total + jnp.where(now, log_p0, 0).sum(1), None

            firsts = jnp.arange(0, x0.shape[1], self.group)
            return jax.lax.scan(one, jnp.zeros(len(x0), u.dtype), firsts)[0]

        each = jax.lax.map(log_p, split(key, self.orders))  # (K, B)
        nats = jnp.log(self.orders) - jax.nn.logsumexp(each, axis=0)
        counted = real if self.known is None else real & ~self.known
        return {"random orders": jnp.where(counted, nats[:, None] / length, 0)}


def _check(bound: AnyOrder | RandomOrders) -> None:
    if bound.group < 1:
        raise ValueError(f"group = {bound.group} must be at least 1")
    _masked(bound.base)


def _masked(base: Objective) -> Process:
    """The base; ValueError where it is no masked process in continuous time."""
    if not isinstance(base, Process) or base.masked_schedule is None:
        raise ValueError(
            "the any-order bound needs a masked process in continuous time, such as MDLM, not "
            f"{type(base).__name__}"
        )
    return base


def _order(key, model, x0, known=None) -> tuple[Array, Array]:
    """Which positions are no padding, and the place of each in a random order of those that are not
    known either, (B, L); below 0 where they are."""
    real = jnp.ones(x0.shape, bool) if model.segments is None else model.segments > 0
    order = jnp.where(real, uniform(key, x0.shape), 2.0)
    if known is None:
        return real, jnp.argsort(jnp.argsort(order, axis=1), axis=1)
    rank = jnp.argsort(jnp.argsort(jnp.where(known, -1.0, order), axis=1), axis=1)
    return real, rank - known.sum(1, keepdims=True)


def _lengths(real, known) -> tuple[Array, Array]:
    """How many tokens of each row are not known, and how many there are in all, (B, 1)."""
    whole = real.sum(1, keepdims=True)
    return (whole if known is None else (real & ~known).sum(1, keepdims=True)), whole
