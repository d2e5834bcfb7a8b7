"""FlexMDM: masked diffusion of texts of any length, by insertion (Kim et al., arXiv 2509.01025).

A text of n tokens is made from the empty one: tokens are inserted as masks, and masks become tokens. In
the forward direction every token, independently, is masked and then removed, by one schedule for both.
With b = 1 - alpha(t) and u1, u2 uniform in (0, 1), at time t it is

    absent  where u1 < b        masked  where u1 u2 < b <= u1        itself  where b <= u1 u2
            b                           -b log b                             1 - b + b log b

and the state z_t is what is present, moved together. Both hazards of the reverse process, of an absent
token to be inserted and of a mask to become its token, are w(t) = -alpha'(t) / (1 - alpha(t)); so

    -log p(x0) <= int w(t) E[ sum_(masks) -log p(x0^i | z_t) + sum_(gaps) phi(g_k, ghat_k) ] dt,
    phi(g, ghat) = ghat - g + g log(g / ghat)

where z_t of m tokens has m + 1 gaps, g_k tokens of x0 are missing in gap k, and ghat_k is the network's
guess of their mean: `models.insertion`. There are no boundary terms: z_1 is empty. The length of a text
is part of what is modelled, so rows are texts with padding (`RowModel.segments`), which costs nothing.

The posterior of x0 goes with b^n, so it depends on the time, unlike that of MDLM: the network needs it.

This bound is loose, also with the exact denoiser, by what is unknown of the alignment: which tokens of
x0 are those of z_t. With g and the token at a mask random given x0 and z_t, and gbar = E[g | x0, z_t],

    bound - (-log p(x0)) = int w(t) E[ sum_(gaps) E[g log g] - gbar log gbar + sum_(masks) H(token) ] dt

in the mean over x0 (proved by enumeration, `tests/test_flex_mdm.py`): .69 of 2.83 nats for strings of at
most three of two letters. Do not compare it with bounds of texts of a given length.

Where the paper's schedules of the two differ in time, another schedule of the same kind gives the same
bound: it only says where on (0, 1) it is estimated. The published code divides by the longest length.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.model import Model, RowModel, at_positions, given
from diffusion.numerics import bregman, gather_last
from diffusion.process import Kind, Likelihood, Traits
from diffusion.random import split, uniform
from diffusion.schedules import Linear, Schedule, masked_weight


class Aligned(NamedTuple):
    """A state beside its text. z: int (B, L), what is present, moved together, V + 1 after it. places:
    (B, L), of each of these which position of x0 it is, and after them the others. tokens: (B, L), x0
    there. after, before: (B, L), how many tokens are missing after each, and before the first; -1 where
    nothing is counted."""

    z: Array
    places: Array
    tokens: Array
    after: Array
    before: Array


@dataclass(frozen=True)
class FlexMDM(Likelihood):
    """Masked diffusion with insertion: texts of any length up to that of a row.

    schedule: alpha(t), the share of tokens that are present; it has exact ends.
    """

    vocab_size: int | None = None
    schedule: Schedule = Linear()
    traits: ClassVar[Traits] = Traits(own_loss=True, inserts=True)
    likelihood: ClassVar[Kind] = "bound"

    def __post_init__(self):
        with jax.ensure_compile_time_eval():
            ends = self.schedule.log_alpha(jnp.zeros(())), self.schedule.log1m_alpha(jnp.ones(()))
            exact = all(abs(end) < 1e-6 for end in ends)
        if not exact:
            raise ValueError(
                f"FlexMDM.schedule = {self.schedule} has no exact ends; leave its eps out, or take "
                "Linear or Cosine"
            )

    def check(self, experiment: Any) -> None:
        if experiment.data.rows in ("pack", "pair"):
            raise ValueError(
                f"data.rows = {experiment.data.rows!r}: a row of FlexMDM is one text, whose length it "
                "learns; set data.rows = sentence or piece"
            )

    @property
    def mask(self) -> int:
        """The state of a token that is present and not known yet, V."""
        return self.num_tokens

    @property
    def absent(self) -> int:
        """What stands in a row after its text, and where a token is absent, V + 1."""
        return self.num_tokens + 1

    def corrupt(self, key: Array, x0: Array, t: Array, real: Array | None = None) -> Array:
        """int (B, L): each token of x0, the mask, or absent, in its own place; t (B, 1). real: bool (B,
        L), where x0 is text and not padding, None for everywhere."""
        log_b, keys = self.schedule.log1m_alpha(t), split(key)
        first, second = (jnp.log(uniform(k, x0.shape, t.dtype)) for k in keys)
        absent = first < log_b if real is None else (first < log_b) | ~real
        state = jnp.where(first + second < log_b, self.mask, x0)
        return jnp.where(absent, self.absent, state)

    def aligned(self, x0: Array, states: Array, length: Array | int) -> Aligned:
        """What `corrupt` gave, moved together, beside x0; length: of the texts, (B, 1) or one number."""
        present = states != self.absent
        order = jnp.argsort(~present, axis=1, stable=True)
        number = jnp.arange(x0.shape[1])[None]
        there = number < present.sum(1, keepdims=True)
        places = jnp.where(there, order, length)
        following = jnp.concatenate([places[:, 1:], jnp.full_like(places[:, :1], length)], axis=1)
        return Aligned(
            jnp.take_along_axis(states, order, axis=1),
            order,
            jnp.take_along_axis(x0, order, axis=1),
            jnp.where(there, following - places - 1, -1),
            jnp.where(number == 0, places, -1),
        )

    def asked(self, model: Model, z: Array) -> tuple[Model, Array]:
        """The model and the state as it is called: absent positions are padding, which nothing sees."""
        segments = (z != self.absent).astype(jnp.int32)
        return given(model, segments=segments), jnp.minimum(z, self.mask)

    def read(self, out: Array) -> tuple[Array, Array, Array]:
        """Logits (B, L, V) of the token at each position; log of how many tokens are missing after each,
        and before it, (B, L), which is meant at the first."""
        return out[..., : self.mask], out[..., self.mask], out[..., self.mask + 1]

    def state_loss(self, model: Model, state: Aligned, t: Array) -> Array:
        """(B, L) nats: the integrand of the bound at time t (B, 1), in the places of x0. What a gap
        costs is at the token before it, and of the first gap at the first token."""
        model, z = self.asked(model, state.z)
        counted = (state.z != self.absent) | (state.before >= 0)
        targets = jnp.stack([state.tokens, state.after, state.before], axis=-1)
        nats = at_positions(model, self._nats, counted, targets, z, t)
        return jnp.take_along_axis(nats, jnp.argsort(state.places, axis=1), axis=1)

    def _nats(self, out, targets, z, t):
        logits, log_after, log_before = self.read(out)
        tokens, after, before = (targets[..., n] for n in range(3))
        masked = (z == self.mask) & (after >= 0)  # and not absent
        token = jax.nn.logsumexp(logits, axis=-1) - gather_last(logits, tokens)
        gaps = gap_loss(after, log_after) + gap_loss(before, log_before)
        return masked_weight(self.schedule, t) * (jnp.where(masked, token, 0) + gaps)

    def loss(self, key: Array, model: RowModel, x0: Array, u: Array) -> Array:
        real = None if model.segments is None else model.segments > 0
        length = x0.shape[1] if real is None else real.sum(1, keepdims=True)
        state = self.aligned(x0, self.corrupt(key, x0, u, real), length)
        return self.state_loss(model, state, u)

    def bound_terms(self, key: Array, model: RowModel, x0: Array, u: Array) -> dict[str, Array]:
        return {"diffusion": self.loss(key, model, x0, u)}


def gap_loss(count: Array, log_mean: Array) -> Array:
    """phi(g, ghat) >= 0 of counts g and log ghat, elementwise; 0 where the count is below 0."""
    some = jnp.maximum(count, 1).astype(log_mean.dtype)
    nats = jnp.where(count > 0, some * bregman(log_mean - jnp.log(some)), jnp.exp(log_mean))
    return jnp.where(count >= 0, nats, 0)
