"""A decoder from left to right that is told what to write by an embedding, and what makes embeddings:
the network of `diffusion.dglm`.

It is its decoder, a `Transformer`, and beside it three parts, which are called by name:

    encoder    tokens -> embeddings, taken from a run and never changed
    denoiser   a noisy embedding, and the embedding of the text before -> an estimate
    prompter   an embedding and how noisy it is -> k vectors that stand before the text, and where
               `everywhere` is set one more, which is added to the embedding of each token of it

A run to begin with is the encoder's trunk, and its parameters are those that the decoder begins with,
as far as they fit.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
from jax import Array

from models.backbone import Backbone
from models.residual_mlp import ResidualMLP
from models.sentence_encoder import SentenceEncoder
from models.transformer import Transformer


@dataclass(frozen=True)
class PlannedTransformer(Backbone):
    """decoder: writes the text. encoder: gives embeddings; with init_from and init_model = run its trunk
    is the network of that run. denoiser, prompter: networks of vectors. prompt_length: k, how many
    vectors stand before a text. everywhere: whether one more is added to each token of it, which heads
    that look at near positions alone hear, too (`Transformer.attention_bias` = "near")."""

    frozen: ClassVar[tuple[str, ...]] = ("encoder",)
    fitted_rows: ClassVar[int] = 512
    decodes: ClassVar[bool] = True
    has_head: ClassVar[bool] = True
    decoder: Transformer = Transformer()
    encoder: SentenceEncoder = SentenceEncoder()
    denoiser: ResidualMLP = ResidualMLP()
    prompter: ResidualMLP = ResidualMLP(num_layers=1)
    prompt_length: int = 8
    everywhere: bool = False

    def __post_init__(self):
        if self.prompt_length < 1:
            raise ValueError(
                f"PlannedTransformer.prompt_length = {self.prompt_length} must be at least 1"
            )
        if self.decoder.given_labels is not None:
            raise ValueError(
                f"PlannedTransformer.decoder.num_labels = {self.decoder.num_labels}: it is given an "
                "embedding and no label; set it to None"
            )
        # What it takes and gives is what its decoder does.
        for name in ("block_length", "chunked_head", "dtype"):
            object.__setattr__(self, name, getattr(self.decoder, name))

    @property
    def vocab_size(self) -> int | None:
        """V, of the decoder."""
        return self.decoder.vocab_size

    @property
    def max_length(self):
        lengths = [self.encoder.max_length]
        if self.decoder.max_length is not None:
            lengths.append(self.decoder.max_length - self.prompt_length)
        return min((length for length in lengths if length is not None), default=None)

    @property
    def parts(self):
        width = self.encoder.width
        return {
            "encoder": self.encoder,
            "denoiser": self.denoiser.made_for(width, width, width),
            "prompter": self.prompter.made_for(
                width, 0, self.decoder.width, self.prompt_length + self.everywhere
            ),
        }

    def init(self, key: Array) -> dict:
        """{"decoder": ..., "encoder": ..., "denoiser": ..., "prompter": ...}."""
        networks = {"decoder": self.decoder, **self.parts}
        keys = jax.random.split(key, len(networks))
        return {name: net.init(k) for (name, net), k in zip(networks.items(), keys, strict=True)}

    def roles(self):
        return {name: net.roles() for name, net in {"decoder": self.decoder, **self.parts}.items()}

    def fitted(self, params, tokens):
        """The parameters with mean and deviation of the encoder's embeddings."""
        return params | {"encoder": self.encoder.fitted(params["encoder"], tokens)}

    def apply(self, params: dict, z: Array, t: Array, **condition: Any) -> Array:
        """What the decoder puts out, as of `Transformer.apply`."""
        return self.decoder.apply(params["decoder"], z, t, **condition)

    def features(self, params: dict, z: Array, t: Array, **condition: Any) -> Array:
        return self.decoder.features(params["decoder"], z, t, **condition)

    def head(self, params: dict, features: Array) -> Array:
        return self.decoder.head(params["decoder"], features)

    def cache(self, rows: int, length: int) -> Any:
        return self.decoder.cache(rows, length)

    def decode(
        self, params: dict, z: Array, t: Array, cache: Any, start, span=None, **condition: Any
    ) -> tuple[Array, Any]:
        return self.decoder.decode(params["decoder"], z, t, cache, start, span, **condition)

    def for_process(self, attention_block, vector_width):
        return replace(self, decoder=self.decoder.for_process(attention_block, vector_width))

    def for_runtime(self, attention="auto", dtype=None, remat=None):
        asked = attention, dtype, remat
        parts = {"decoder": self.decoder, "encoder": self.encoder}
        return replace(self, **{name: net.for_runtime(*asked) for name, net in parts.items()})

    def like(self, other):
        """The same with the other network as the encoder's trunk, or with its encoder."""
        return replace(self, encoder=self.encoder.like(other))

    def place(self, params):
        """Those of another network are the encoder's trunk, and what the decoder begins with."""
        if "encoder" in params:
            return params
        return {"encoder": {"trunk": params}, "decoder": params}
