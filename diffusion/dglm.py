"""DGLM, language modelling guided by semantic diffusion (Lovelace et al., arXiv 2408.04220).

A text is planned before it is written. Of a row cut into a prefix x and what follows, y, with e( ) the
embedding of a text by a frozen encoder (`models.sentence_encoder`),

    p(y | x) = E over e ~ p(e | x) of p(y | x, e),

p(e | x) a diffusion of the one vector e(y), whose denoiser is given e(x) (`diffusion.vector_diffusion`),
and p(y | x, e) an autoregressive decoder before whose text stand k vectors made of e: a soft prompt. One
more may be added to the embedding of each token (`models.planned`). The loss is the sum of two that
share no parameters,

    (1)  -log p(y^i | x, y^1 .. y^(i-1), prompt(a e(y) + b eps, b^2))  at each position of y,
    (2)  the loss of the diffusion, the same number at each position,

where b^2 is uniform in (0, 1), a^2 + b^2 = 1: what the diffusion samples is not quite the embedding of
any text, and the decoder, who is told how noisy its plan is, learns not to trust it to the last digit.

What a classifier of embeddings says of a label guides the diffusion, and never the decoder: so the
classifier needs no noisy text and may be as small as a logistic regression, and log-probabilities of
several add up (`diffusion.embedding_classifier`).

It has no likelihood bound: for a given e the decoder's loss is a likelihood of y given more than x, and
the mixture over e is not computed. Prefixes have 1 to `longest_prefix` tokens, each number alike, or, of
a share `alone` of the rows, none: then e(x) is 0, for texts that are written without a prompt.

Otherwise than published: the paper's encoder is Sentence-T5 and its decoder GPT-2; its prefix has 32
tokens always, and 10 % of rows train the diffusion, not the decoder, without it; its two parts are
trained one after the other; the levels of b in training are not given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.autoregressive import Autoregressive
from diffusion.model import Around, PartedModel, at_positions, given
from diffusion.process import Objective, Traits
from diffusion.random import normal, split, uniform
from diffusion.vector_diffusion import Denoise, VectorDiffusion

PARTS = ("encoder", "denoiser", "prompter")


@dataclass(frozen=True)
class DGLM(Objective):
    """diffusion: of embeddings. longest_prefix: how many tokens are given at most, in training; of a row
    at most half. alone: the share of rows without a prefix."""

    vocab_size: int | None = None
    diffusion: VectorDiffusion = VectorDiffusion()
    longest_prefix: int = 32
    alone: float = 0.1
    # Whole rows: embeddings are of texts without padding or neighbours.
    traits: ClassVar[Traits] = Traits(
        attention_block=1, labels="unsupported", whole_rows=True, own_loss=True
    )

    def __post_init__(self):
        if self.longest_prefix < 1:
            raise ValueError(f"DGLM.longest_prefix = {self.longest_prefix} must be at least 1")
        if not 0 <= self.alone <= 1:
            raise ValueError(f"DGLM.alone = {self.alone} is outside [0, 1]")

    @property
    def decoder(self) -> Autoregressive:
        """What the decoder is trained as, and sampled as."""
        return Autoregressive(self.vocab_size)

    def check(self, experiment: Any) -> None:
        missing = [name for name in PARTS if name not in experiment.model.parts]
        if missing:
            raise ValueError(
                f"model {type(experiment.model).__name__} has no {', '.join(missing)}, which DGLM asks "
                "for; use PlannedTransformer"
            )
        if experiment.data.rows == "pair":
            raise ValueError(
                "data.rows = 'pair': DGLM cuts rows into prefix and text itself; set data.rows = wrap"
            )

    def loss(self, key, model: PartedModel, x0, u):
        key_cut, key_diffusion, key_plan = split(key, 3)
        first = self.cut(key_cut, x0.shape)
        places = jnp.arange(x0.shape[1])[None]
        given, told = self.embeddings(model, x0, jnp.where(places < first, 1, 2))
        planning = self.diffusion.loss(key_diffusion, self.denoiser(model, given), told, u)
        prompted = self.prompted(model, *self.noisy(key_plan, told))
        writing = self.decoder.loss(key, prompted, x0, u)
        return jnp.where(places < first, 0, writing) + planning[:, None]

    def cut(self, key: Array, shape: tuple[int, ...]) -> Array:
        """How many tokens of each row are prefix, int (B, 1)."""
        rows, length = shape
        most = min(self.longest_prefix, length // 2)
        number, apart = (uniform(k, (rows, 1)) for k in split(key))
        return jnp.where(apart < self.alone, 0, 1 + jnp.floor(most * number).astype(jnp.int32))

    def embeddings(self, model: PartedModel, x0: Array, segments: Array) -> tuple[Array, Array]:
        """The embeddings, (B, D) each, of the texts 1 and 2 of each row, by segments (B, L)."""
        t = jnp.zeros((len(x0), 1))
        both = model.part("encoder")(x0, t, segments=segments, count=2)
        return both[:, 0], both[:, 1]

    def denoiser(self, model: PartedModel, given: Array) -> Denoise:
        """The denoiser that is given the embedding (B, D) of the prefix."""
        return lambda z, t: model.part("denoiser")(z, t, beside=given)

    def noisy(self, key: Array, told: Array, level: Array | None = None) -> tuple[Array, Array]:
        """(noisy embeddings (B, D), b^2 (B, 1)), the level given or drawn."""
        key_level, key_noise = split(key)
        level = uniform(key_level, (len(told), 1)) if level is None else level
        noise = normal(key_noise, told.shape, told.dtype)
        return jnp.sqrt(1 - level) * told + jnp.sqrt(level) * noise, level

    def prompted(self, model: PartedModel, plan: Array, level: Array) -> "Prompted":
        """The decoder with a soft prompt made of noisy embeddings (B, D) of levels (B, 1)."""
        vectors = model.part("prompter")(plan, level)
        before, everywhere = jnp.split(vectors, (model.prompt_length,), axis=1)
        return Prompted(model, before, everywhere, self.decoder.start)


@dataclass(frozen=True)
class Prompted(Around):
    """A model from left to right before whose text stand k vectors.

    model: what it asks, of tokens, with what is `added` to their embeddings. prompt: the vectors, (B, k,
    D). everywhere: (B, 0 or 1, D), one that is added to the embedding of each token. start: the token in
    the places of the vectors, whose own embedding is the same for all.
    """

    model: Any
    prompt: Array
    everywhere: Array
    start: int

    @property
    def count(self) -> int:
        """k."""
        return self.prompt.shape[1]

    def _added(self, length: int) -> Array:
        """(B (k + length), D): the vectors, and what is added to a text of so many tokens."""
        added = jnp.concatenate([self.prompt, self._to_each(length)], axis=1)
        return added.reshape(-1, added.shape[-1])

    def _to_each(self, length: int) -> Array:
        """(B, length, D), what is added to the embedding of each token."""
        rows, _, width = self.prompt.shape
        return jnp.broadcast_to(self.everywhere.sum(1, keepdims=True), (rows, length, width))

    def _after(self, x: Array, fill: Any) -> Array:
        """x (B, L) after k places with `fill`."""
        return jnp.pad(x, ((0, 0), (self.count, 0)), constant_values=fill)

    def __call__(self, z: Array, t: Array, **condition: Array) -> Array:
        """out (B, L, V) of tokens z (B, L)."""
        out = self.model(self._after(z, self.start), t, added=self._added(z.shape[1]), **condition)
        return out[:, self.count :]

    def at(
        self, function: Callable[..., Array], where: Array | None, x0: Array, z: Array, t: Array
    ) -> Array:
        """As of `diffusion.model.PositionModel`."""
        model = given(self.model, added=self._added(z.shape[1]))
        where = self._after(jnp.ones(x0.shape, bool) if where is None else where, False)
        tokens = self._after(x0, 0), self._after(z, self.start)
        return at_positions(model, function, where, *tokens, t)[:, self.count :]

    def cache(self, rows: int, length: int) -> Any:
        """Room for `length` positions after the vectors, which are in it."""
        z, t = jnp.full((rows, 1), self.start), jnp.zeros((rows, 1))

        def fill(place, cache):  # one after another: together they would see each other
            return self.model.decode(z, t, cache, place, added=self.prompt[:, place])[1]

        return jax.lax.fori_loop(0, self.count, fill, self.model.cache(rows, self.count + length))

    def decode(
        self, z: Array, t: Array, cache: Any, start: Array | int, span: int | None = None
    ) -> tuple[Array, Any]:
        """As `models.backbone.Network.decode`; a span reaches back into the vectors."""
        added = self._to_each(z.shape[1]).reshape(-1, self.prompt.shape[-1])
        return self.model.decode(z, t, cache, self.count + start, span, added=added)
