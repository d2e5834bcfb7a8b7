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

The posterior of x0 goes with b^n, so it depends on the time, unlike that of MDLM, and the network needs
it. It puts out log(ghat_k / b): few tokens are missing where b is small, and w(t) ghat_k, with w about
1 / b, would be large for any guess that does not fall with b.

This bound, the paper's, is loose also with the exact denoiser, by what is unknown of the alignment:
which tokens of x0 are those of z_t. Given x0 and z_t all ways in which z_t is found in x0 are alike, so
with gbar = E[g | x0, z_t] and q(v) = P(token at the mask is v | x0, z_t) (`diffusion.alignment`),

    -log p(x0) <= int w(t) E[ sum_(masks) KL(q || p(. | z_t)) + sum_(gaps) phi(gbar_k, ghat_k) ] dt

is the bound by the Markov process that goes through the same states to x0; `bound_terms` has this one.
It is lower by int w(t) E[ sum_(gaps) E[g log g] - gbar log gbar + sum_(masks) H(q) ] dt, the same for
every network, and with the exact denoiser it is -log p(x0) of every text (both proved by enumeration,
`tests/test_flex_mdm.py`: for strings of at most three of two letters with an entropy of 2.34 nats the
paper's is 1.07 higher). `loss` is the paper's, whose gradient has the same mean.

Known text. The network takes what is present for tokens that may stand anywhere in x0, but a user's
text stands together: "we * the people" has one open gap. So a share `infilling` of the training rows
has known text, clean at all times, where every gap is closed but those of one blank or two, and the
network is told which are; the loss is the bound of -log p(blanks | known text). How many tokens are
known before, between and after the blanks, and how long the first of two blanks is, is drawn without
regard to the text, and where they do not fit the row costs nothing: so texts of all lengths are asked
about alike, and the exact denoiser is that of p(x0 | known text). The paper has 0: then a text is drawn
in proportion to p(x0) times the number of ways in which the known text stands in it, even where gaps
are closed.

Where the paper's schedules of the two differ in time, another schedule of the same kind gives the same
bound: it only says where on (0, 1) it is estimated. The published code divides by the longest length.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.alignment import places
from diffusion.model import Model, RowModel, at_positions, given
from diffusion.numerics import bregman, gather_last
from diffusion.process import Kind, Likelihood, Traits
from diffusion.random import split, uniform
from diffusion.schedules import Linear, Schedule, masked_weight


class Aligned(NamedTuple):
    """A state beside its text. z: int (B, L), what is present, moved together, V + 1 after it. places:
    (B, L), of each of these which position of x0 it is, and after them the others. tokens: (B, L), x0
    there. after, before: (B, L), how many tokens are missing after each, and before the first; -1 where
    nothing is counted. gaps: as of `models.insertion`, None for all open."""

    z: Array
    places: Array
    tokens: Array
    after: Array
    before: Array
    gaps: Array | None = None


class Blanks(NamedTuple):
    """What is asked of a text. known: bool (B, L). opened: bool (B, L + 1), whether tokens may be
    missing before each position. fits: bool (B, 1)."""

    known: Array
    opened: Array
    fits: Array


@dataclass(frozen=True)
class FlexMDM(Likelihood):
    """Masked diffusion with insertion: texts of any length up to that of a row.

    schedule: alpha(t), the share of tokens that are present; it has exact ends. infilling: the share of
    rows that is trained with known text around blanks (above).
    """

    vocab_size: int | None = None
    schedule: Schedule = Linear()
    infilling: float = 0.0
    traits: ClassVar[Traits] = Traits(own_loss=True, inserts=True)
    likelihood: ClassVar[Kind] = "bound"

    def __post_init__(self):
        if not 0 <= self.infilling < 1:
            raise ValueError(
                f"FlexMDM.infilling = {self.infilling} is outside [0, 1); it is the share of rows that "
                "is trained with known text"
            )
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

    def corrupt(self, key: Array, x0: Array, t: Array, real: Array | bool = True) -> Array:
        """int (B, L): each token of x0, the mask, or absent, in its own place; t (B, 1). real: bool (B,
        L), where x0 is text and not padding."""
        log_b, keys = self.schedule.log1m_alpha(t), split(key)
        first, second = (jnp.log(uniform(k, x0.shape, t.dtype)) for k in keys)
        state = jnp.where(first + second < log_b, self.mask, x0)
        return jnp.where((first >= log_b) & real, state, self.absent)

    def aligned(
        self, x0: Array, states: Array, length: Array | int, opened: Array | None = None
    ) -> Aligned:
        """What `corrupt` gave, moved together, beside x0; length: of the texts, (B, 1) or one number.
        opened: as of `Blanks`, None where all gaps are."""
        present = states != self.absent
        order = jnp.argsort(~present, axis=1, stable=True)
        number = jnp.arange(x0.shape[1])[None]
        there = number < present.sum(1, keepdims=True)
        stand = jnp.where(there, order, length)
        following = jnp.concatenate([stand[:, 1:], jnp.full_like(stand[:, :1], length)], axis=1)
        after = jnp.where(there, following - stand - 1, -1)
        before = jnp.where(number == 0, stand, -1)
        gaps = None
        if opened is not None:
            may_after = jnp.take_along_axis(opened, order + 1, axis=1)
            may_before = opened[:, :1] & (number == 0)
            after, before = jnp.where(may_after, after, -1), jnp.where(may_before, before, -1)
            gaps = may_after + 2 * may_before.astype(jnp.int32)
        return Aligned(
            jnp.take_along_axis(states, order, axis=1),
            order,
            jnp.take_along_axis(x0, order, axis=1),
            after,
            before,
            gaps,
        )

    def asked(self, model: Model, z: Array, gaps: Array | None) -> tuple[Model, Array]:
        """The model and the state as it is called: absent positions are padding, which nothing sees."""
        condition = {"segments": (z != self.absent).astype(jnp.int32)}
        if gaps is not None:
            condition["gaps"] = gaps
        return given(model, **condition), jnp.minimum(z, self.mask)

    def averaged_loss(
        self, model: Model, state: Aligned, x0: Array, length: Array, t: Array
    ) -> Array:
        """As `state_loss`, of the tighter bound: in the mean over all ways in which z is found in x0."""
        model, z = self.asked(model, state.z, state.gaps)
        there = state.z != self.absent
        size, number = there.sum(1, keepdims=True), jnp.arange(x0.shape[1])[None]
        p = places(state.z, size, x0, length, self.mask)
        mean = (p * number[None]).sum(-1)  # of where each token is
        mean = jnp.where(there, mean, length)
        following = jnp.concatenate([mean[:, 1:], length.astype(mean.dtype)], axis=1)
        after = jnp.where(there, jnp.maximum(following - mean - 1, 0), -1)
        before = jnp.where(number == 0, mean, -1)
        q = p @ (x0[:, :, None] == x0[:, None]).astype(
            p.dtype
        )  # of each token of x0 at j, (B, L, L)
        negative_entropy = (p * jnp.log(jnp.where(p > 0, q, 1))).sum(-1)
        scalars = jnp.stack([after, before, negative_entropy], axis=-1)
        tokens = jnp.broadcast_to(x0[:, None], p.shape).astype(p.dtype)
        targets = jnp.concatenate([scalars, p, tokens], axis=-1)
        counted = there | (before >= 0)
        nats = at_positions(model, self._averaged_nats, counted, targets, z, t)
        return jnp.take_along_axis(nats, jnp.argsort(state.places, axis=1), axis=1)

    def _averaged_nats(self, out, targets, z, t):
        logits, log_after, log_before = self.read(out, t)
        after, before, negative_entropy = (targets[..., n] for n in range(3))
        p, tokens = jnp.split(targets[..., 3:], 2, axis=-1)
        log_p = jax.nn.log_softmax(logits)
        log_p = jnp.take_along_axis(log_p, tokens.astype(jnp.int32), axis=-1)
        token = negative_entropy - (p * jnp.where(p > 0, log_p, 0)).sum(-1)
        gaps = gap_loss(after, log_after) + gap_loss(before, log_before)
        return masked_weight(self.schedule, t) * (jnp.where(z == self.mask, token, 0) + gaps)

    def read(self, out: Array, t: Array) -> tuple[Array, Array, Array]:
        """Logits (B, L, V) of the token at each position; log of how many tokens are missing after each,
        and before it, (B, L), which is meant at the first; t: (B, 1) or (B, L)."""
        log_b = self.schedule.log1m_alpha(t)
        return out[..., : self.mask], log_b + out[..., self.mask], log_b + out[..., self.mask + 1]

    def state_loss(self, model: Model, state: Aligned, t: Array) -> Array:
        """(B, L) nats: the integrand of the bound at time t (B, 1), in the places of x0. What a gap
        costs is at the token before it, and of the first gap at the first token."""
        model, z = self.asked(model, state.z, state.gaps)
        counted = (state.z != self.absent) | (state.before >= 0)
        tokens = jnp.where(state.z == self.absent, -1, state.tokens)
        targets = jnp.stack([tokens, state.after, state.before], axis=-1)
        nats = at_positions(model, self._nats, counted, targets, z, t)
        return jnp.take_along_axis(nats, jnp.argsort(state.places, axis=1), axis=1)

    def _nats(self, out, targets, z, t):
        logits, log_after, log_before = self.read(out, t)
        tokens, after, before = (targets[..., n] for n in range(3))
        masked = (z == self.mask) & (tokens >= 0)
        token = jax.nn.logsumexp(logits, axis=-1) - gather_last(logits, jnp.maximum(tokens, 0))
        gaps = gap_loss(after, log_after) + gap_loss(before, log_before)
        return masked_weight(self.schedule, t) * (jnp.where(masked, token, 0) + gaps)

    def blanks(self, key: Array, length: Array, size: int) -> Blanks:
        """Blanks in texts of `length` (B, 1), of at most `size` tokens, in a share `infilling` of them;
        everything is open in the others."""
        draws = uniform(key, (len(length), 6))
        before, between, after = (_known_size(draws[:, n : n + 1], size) for n in range(3))
        between = between + 1  # else two blanks would be one, in as many ways as it has places
        first = jnp.floor((size + 1) * draws[:, 3:4])  # how long the first of two blanks is
        asked, two = draws[:, 4:5] < self.infilling, draws[:, 5:] < 0.5
        begin, end = jnp.where(asked, before, 0), jnp.where(asked, length - after, length)
        left = jnp.where(asked & two, begin + first, end)  # what is known between two blanks
        right = jnp.where(asked & two, left + between, end)
        number = jnp.arange(size + 1)[None]
        opened = ((begin <= number) & (number <= left)) | ((right <= number) & (number <= end))
        blank = ((begin <= number) & (number < left)) | ((right <= number) & (number < end))
        fits = (begin <= left) & (left <= right) & (right <= end)
        return Blanks(~blank[:, :-1], opened, fits)

    def loss(self, key: Array, model: RowModel, x0: Array, u: Array) -> Array:
        real, length = _rows(model, x0)
        if not self.infilling:
            state = self.aligned(x0, self.corrupt(key, x0, u, real), length)
            return self.state_loss(model, state, u)
        key_blanks, key = split(key)
        blanks = self.blanks(key_blanks, length, x0.shape[1])
        states = self.corrupt(key, x0, u, real)
        states = jnp.where(blanks.known & real, x0, states)
        state = self.aligned(x0, states, length, blanks.opened)
        return jnp.where(blanks.fits, self.state_loss(model, state, u), 0)

    def bound_terms(self, key: Array, model: RowModel, x0: Array, u: Array) -> dict[str, Array]:
        real, length = _rows(model, x0)
        state = self.aligned(x0, self.corrupt(key, x0, u, real), length)
        return {"diffusion": self.averaged_loss(model, state, x0, length, u)}


def _rows(model: RowModel, x0: Array) -> tuple[Array, Array]:
    """Where x0 is text and not padding, bool (B, L), and how long the texts are, (B, 1)."""
    real = jnp.ones(x0.shape, bool) if model.segments is None else model.segments > 0
    return real, real.sum(1, keepdims=True)


def _known_size(u: Array, size: int) -> Array:
    """How many tokens are known on one side of a blank: any number up to `size`, half of them at most
    an eighth of it."""
    return jnp.floor((size + 1) * u**3)


def gap_loss(count: Array, log_mean: Array) -> Array:
    """phi(g, ghat) >= 0 of counts, or their means, g and log ghat, elementwise; 0 where g is below 0."""
    some = jnp.where(count > 0, count, 1).astype(log_mean.dtype)
    nats = jnp.where(count > 0, some * bregman(log_mean - jnp.log(some)), jnp.exp(log_mean))
    return jnp.where(count >= 0, nats, 0)
