"""Insertion by tau-leaping, for texts of any length (FlexMDM, arXiv 2509.01025).

From the empty text at t = 1, in a step from t to s, with r = 1 - b(s) / b(t), b = 1 - alpha:

    a mask becomes a token of the network's with probability r, which is exact
    gap k gets a Poisson number of masks of mean r ghat_k, with rates held fixed over the step

No token is ever removed. What is inserted in a step is a mask at its end, so after the last step, which
inserts all that is missing, one more call makes tokens of what is masked. (If the last step inserted
nothing instead, texts would lack some share 1 / steps of their length, and the distribution would be
twice as far off at as many calls.) What does not fit into the row is left out, from the right.

Known text has three signs besides tokens: `ANY`, where nothing is known, is any number of tokens, `ONE`
is one token, `NOTHING` is none. It stands in the state from the start, and only gaps with `ANY` in them
grow. The network is told which; one that was trained for it (`FlexMDM.infilling`) then says what is
missing given the known text, and the limit of many steps is p(x0 | known text) with the exact denoiser.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.flex_mdm import FlexMDM
from diffusion.random import categorical, fold_in, poisson, split, uniform
from samplers.sampler import Compatibility, Sampled, TimedSampler

ANY, ONE, NOTHING = -1, -2, -3


class Growing(NamedTuple):
    """A state as it grows. z: int (B, L), tokens, masks, and V + 1 after the text. open: bool (B, L),
    whether tokens may be inserted after each position; first: bool (B, 1), whether before them."""

    z: Array
    open: Array
    first: Array

    @property
    def gaps(self) -> Array:
        """The same as `models.insertion` is told it, int (B, L)."""
        at_first = jnp.arange(self.z.shape[1])[None] == 0
        return self.open + 2 * (self.first & at_first).astype(jnp.int32)


@dataclass(frozen=True)
class Insertion(TimedSampler):
    """`steps` calls of the network, and one for the masks that are left."""

    requires: ClassVar[type] = FlexMDM
    lacking: ClassVar[str] = "the process does not insert tokens, as FlexMDM does"
    grids: ClassVar[tuple[str, ...]] = ("uniform", "cosine")

    def compatibility(self, process):
        return self.unsupported(process) or Compatibility(
            "approximate", "rates of insertion are held fixed over a step"
        )

    def calls(self, process, length):
        return self.steps + 1

    def run(self, key, process, model, shape, known=None, trace=False):
        """As `Sampler.run`; known: int (B, L), tokens and the signs above; the texts move together, with
        -1 after them."""
        assert isinstance(process, FlexMDM)  # as `requires` says
        known = jnp.full(shape, ANY) if known is None else known
        state, times = begun(process, known), self.times()

        def step(state, number):
            keys, (t, s) = split(fold_in(key, number), 4), (times[number], times[number + 1])
            log_b, log_b_next = process.schedule.log1m_alpha(t), process.schedule.log1m_alpha(s)
            chance = jnp.where(s > 0, -jnp.expm1(log_b_next - log_b), 1)
            x0, log_after, log_before = self._said(keys[0], process, model, state, t)
            revealed = (state.z == process.mask) & (uniform(keys[1], shape) < chance)
            may = state.open & (state.z != process.absent)
            after = jnp.where(may, poisson(keys[2], chance * jnp.exp(log_after)), 0)
            first = poisson(keys[3], chance * jnp.exp(log_before[:, :1]))
            state = state._replace(z=jnp.where(revealed, x0, state.z))
            return grown(process, state, after, jnp.where(state.first, first, 0)), None

        state, _ = jax.lax.scan(step, state, jnp.arange(self.steps))
        x0, _, _ = self._said(fold_in(key, self.steps), process, model, state, times[-1])
        x0 = jnp.where(state.z == process.mask, x0, state.z)
        x0 = jnp.where(x0 == process.absent, -1, x0).astype(jnp.int32)
        return Sampled(x0, jnp.full(shape[0], self.steps + 1, jnp.int32))

    def _said(self, key, process, model, state, t):
        """A draw of every token, and log of how many are missing after each and before it."""
        asked, seen = process.asked(model, state.z, state.gaps)
        t = jnp.full((len(seen), 1), t)
        logits, log_after, log_before = process.read(asked(seen, t), t)
        weights = jax.nn.one_hot(state.z, process.num_tokens)
        log_p0 = self.logits_processor(jax.nn.log_softmax(logits), weights)
        return categorical(key, log_p0), log_after, log_before


def begun(process: FlexMDM, known: Array) -> Growing:
    """What is known, int (B, L), moved together: tokens and masks, and which gaps are open."""
    number = jnp.arange(known.shape[1])[None]
    stands = (known >= 0) | (known == ONE)
    order = jnp.argsort(~stands, axis=1, stable=True)
    there = number < stands.sum(1, keepdims=True)
    tokens = jnp.take_along_axis(jnp.where(known == ONE, process.mask, known), order, axis=1)
    opened = jnp.cumsum(known == ANY, axis=1)  # how many signs of an open gap stand up to here
    every = opened[:, -1:]
    up_to = jnp.where(there, jnp.take_along_axis(opened, order, axis=1), every)
    following = jnp.concatenate([up_to[:, 1:], every], axis=1)
    return Growing(jnp.where(there, tokens, process.absent), following > up_to, up_to[:, :1] > 0)


def grown(process: FlexMDM, state: Growing, after: Array, first: Array) -> Growing:
    """The state with so many masks after each position, (B, L), and before the first, (B, 1); what does
    not fit is left out from the right."""
    length = state.z.shape[1]
    present = state.z != process.absent
    size = present.sum(1, keepdims=True)
    counts = jnp.minimum(jnp.concatenate([first, after], axis=1), length)  # whose sum is a number
    before = jnp.cumsum(counts, axis=1) - counts
    counts = jnp.clip(length - size - before, 0, counts)
    moved = jnp.arange(length)[None] + jnp.cumsum(counts, axis=1)[:, :-1]
    to = jnp.where(present, moved, length)  # which no array has

    def placed(to, values, empty):
        return empty.at[to].set(values, mode="drop")

    number = jnp.arange(length)[None]
    grows = number < size + counts.sum(1, keepdims=True)
    empty = jnp.where(grows, process.mask, process.absent)
    z = jax.vmap(placed)(to, state.z, empty)
    return Growing(z, jax.vmap(placed)(to, state.open, grows), state.first)
