"""ModernBERT (arXiv 2412.13663), with the head of masked language models or its trunk alone."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from experiments.config import Experiment
from experiments.errors import UserError
from experiments.published.families.encoders import architecture
from experiments.published.family import Architecture, Family, Options, Sizes
from experiments.published.parts import Extended, Same, Shape, linear, norm, stacked
from models.modernbert import ModernBert as Network

_WORDS = "embeddings.tok_embeddings.weight"
_LENGTH = 1024  # of a sequence; the networks were trained on up to 8192
_FORMS = {
    "hidden_activation": "gelu",
    "classifier_activation": "gelu",  # of the head
    "attention_bias": False,
    "mlp_bias": False,
    "norm_bias": False,
    "classifier_bias": False,
    "decoder_bias": True,
}


@dataclass(frozen=True)
class ModernBert(Family):
    """ModernBERT, whose first layer has no normalisation before its attention."""

    name: str = "modernbert"
    takes: ClassVar[frozenset[str]] = frozenset({"length", "mask"})
    prefixes: ClassVar[tuple[str, ...]] = ("model.",)

    def matches(self, keys: Collection[str], config: Mapping) -> bool:
        return {_WORDS, "layers.0.attn.Wqkv.weight"} <= set(keys)

    def read(self, shapes: Mapping[str, Shape], config: Mapping, options: Options) -> Architecture:
        sizes = Sizes(self.name, shapes, config)
        rows, width = sizes.of(_WORDS)
        count = sizes.count(r"layers\.(\d+)\.")
        hidden = sizes.of("layers.0.mlp.Wo.weight")[1]
        sizes.agree(
            vocab_size=rows, hidden_size=width, num_hidden_layers=count, intermediate_size=hidden
        )
        sizes.forms(**_FORMS)
        heads = sizes.needed("num_attention_heads")
        sizes.divided(width, 2 * heads, "config.json: num_attention_heads")
        every = int(sizes.given("global_attn_every_n_layers", 3))
        whole, local = "full_attention", "sliding_attention"
        kinds = [local if i % every else whole for i in range(count)]
        if config.get("layer_types", kinds) != kinds:
            raise UserError(
                f"config.json: layer_types are not {whole} in every {every}th layer alone"
            )
        model = Network(
            vocab_size=rows, num_layers=count, width=width, num_heads=heads, hidden=hidden,
            norm_eps=float(sizes.given("norm_eps", 1e-5)), global_every=every,
            local_attention=int(sizes.given("local_attention", 128)),
            global_base=sizes.rotary_base("global_rope_theta", 160_000.0, whole),
            local_base=sizes.rotary_base("local_rope_theta", 10_000.0, local),
        )  # fmt: skip
        trunk, repeated = "decoder.bias" not in shapes, (("decoder.weight", _WORDS),)
        return architecture(model, sizes, options, _LENGTH, {50368: 50284}, repeated, trunk)

    def layout(self, model: Network, options: Options) -> dict:
        def layer(i: int) -> dict:
            at = f"layers.{i}"
            return {
                "attention": {"qkv": linear(f"{at}.attn.Wqkv"), "out": linear(f"{at}.attn.Wo")},
                "mlp": {"up": linear(f"{at}.mlp.Wi"), "down": linear(f"{at}.mlp.Wo")},
                "norm_mlp": norm(f"{at}.mlp_norm"),
            }

        def later(i: int) -> dict:
            return {"norm_attention": norm(f"layers.{i + 1}.attn_norm")}

        count = model.num_layers
        ends = {
            "embedding": Extended(_WORDS, options.mask, returns=True),
            "norm": norm("embeddings.norm"),
            "final_norm": norm("final_norm"),
            "dense": linear("head.dense"),
            "head_norm": norm("head.norm"),
            "bias": Same("decoder.bias"),
        }
        return {"ends": ends, "layers": stacked(count, layer) | stacked(count - 1, later)}

    def key_in_file(self, key: str) -> str:
        return key if key.startswith(("head.", "decoder.")) else f"model.{key}"

    def config(self, experiment: Experiment, model: Network, options: Options) -> dict:
        return _FORMS | {
            "model_type": "modernbert",
            "architectures": ["ModernBertForMaskedLM"],
            "vocab_size": model.vocab_size,
            "hidden_size": model.width,
            "num_hidden_layers": model.num_layers,
            "num_attention_heads": model.num_heads,
            "intermediate_size": model.hidden,
            "norm_eps": model.norm_eps,
            "global_attn_every_n_layers": model.global_every,
            "local_attention": model.local_attention,
            "global_rope_theta": model.global_base,
            "local_rope_theta": model.local_base,
            "tie_word_embeddings": True,
        }


FAMILIES: tuple[Family, ...] = (ModernBert(),)
