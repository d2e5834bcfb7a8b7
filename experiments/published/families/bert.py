"""BERT (arXiv 1810.04805), with the head of masked language models or its trunk alone."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from experiments.config import Experiment
from experiments.published.families.encoders import architecture
from experiments.published.family import Architecture, Family, Options, Sizes
from experiments.published.parts import (
    Beside,
    Extended,
    Same,
    Shape,
    Transposed,
    linear,
    norm,
    stacked,
)
from models.bert import Bert as Network

_WORDS = "embeddings.word_embeddings.weight"
_HEAD = "cls.predictions"
_FORMS = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}


@dataclass(frozen=True)
class Bert(Family):
    """BERT; old files call scales and biases of normalisations gamma and beta."""

    name: str = "bert"
    takes: ClassVar[frozenset[str]] = frozenset({"length", "mask"})
    prefixes: ClassVar[tuple[str, ...]] = ("bert.",)
    buffers: ClassVar[str] = r"^embeddings\.position_ids$|^pooler\.|^cls\.seq_relationship\."

    def matches(self, keys: Collection[str], config: Mapping) -> bool:
        layers = "encoder.layer.0.attention.self.query.weight" in keys
        return layers and _WORDS in keys and config.get("model_type", "bert") == "bert"

    def renamed(self, key: str) -> str:
        start, _, last = key.rpartition(".")
        new = {"gamma": "weight", "beta": "bias"}.get(last)
        return f"{start}.{new}" if start.endswith("LayerNorm") and new else key

    def read(self, shapes: Mapping[str, Shape], config: Mapping, options: Options) -> Architecture:
        sizes = Sizes(self.name, shapes, config)
        rows, width = sizes.of(_WORDS)
        positions = sizes.of("embeddings.position_embeddings.weight")[0]
        types = sizes.of("embeddings.token_type_embeddings.weight")[0]
        count = sizes.count(r"encoder\.layer\.(\d+)\.")
        hidden = sizes.of("encoder.layer.0.intermediate.dense.weight")[0]
        sizes.agree(
            vocab_size=rows, hidden_size=width, num_hidden_layers=count, intermediate_size=hidden,
            max_position_embeddings=positions, type_vocab_size=types,
        )  # fmt: skip
        sizes.forms(**_FORMS)
        heads = sizes.needed("num_attention_heads")
        sizes.divided(width, 2 * heads, "config.json: num_attention_heads")
        model = Network(
            vocab_size=rows, num_layers=count, width=width, num_heads=heads, hidden=hidden,
            norm_eps=float(sizes.given("layer_norm_eps", 1e-12)),
            learned_positions=positions, num_types=types,
        )  # fmt: skip
        decoder = f"{_HEAD}.decoder"
        repeated = ((f"{decoder}.weight", _WORDS), (f"{decoder}.bias", f"{_HEAD}.bias"))
        trunk = f"{_HEAD}.bias" not in shapes
        return architecture(model, sizes, options, positions, {30522: 103}, repeated, trunk)

    def layout(self, model: Network, options: Options) -> dict:
        def layer(i: int) -> dict:
            at, attention = f"encoder.layer.{i}", f"encoder.layer.{i}.attention"
            names = [f"{attention}.self.{x}" for x in ("query", "key", "value")]
            split = 3 * (model.width,)
            return {
                "attention": {
                    "qkv": {
                        "kernel": Beside(tuple(Transposed(f"{x}.weight") for x in names), split),
                        "bias": Beside(tuple(Same(f"{x}.bias") for x in names), split),
                    },
                    "out": linear(f"{attention}.output.dense", bias=True),
                },
                "norm_attention": norm(f"{attention}.output.LayerNorm", bias=True),
                "mlp": {
                    "up": linear(f"{at}.intermediate.dense", bias=True),
                    "down": linear(f"{at}.output.dense", bias=True),
                },
                "norm_mlp": norm(f"{at}.output.LayerNorm", bias=True),
            }

        ends = {
            "embedding": Extended(_WORDS, options.mask, returns=True),
            "positions": Same("embeddings.position_embeddings.weight"),
            "types": Same("embeddings.token_type_embeddings.weight"),
            "norm": norm("embeddings.LayerNorm", bias=True),
            "dense": linear(f"{_HEAD}.transform.dense", bias=True),
            "head_norm": norm(f"{_HEAD}.transform.LayerNorm", bias=True),
            "bias": Same(f"{_HEAD}.bias"),
        }
        return {"ends": ends, "layers": stacked(model.num_layers, layer)}

    def key_in_file(self, key: str) -> str:
        return key if key.startswith("cls.") else f"bert.{key}"

    def config(self, experiment: Experiment, model: Network, options: Options) -> dict:
        return _FORMS | {
            "model_type": "bert",
            "architectures": ["BertForMaskedLM"],
            "vocab_size": model.vocab_size,
            "hidden_size": model.width,
            "num_hidden_layers": model.num_layers,
            "num_attention_heads": model.num_heads,
            "intermediate_size": model.hidden,
            "max_position_embeddings": model.learned_positions,
            "type_vocab_size": model.num_types,
            "layer_norm_eps": model.norm_eps,
        }


FAMILIES: tuple[Family, ...] = (Bert(),)
