"""GPT-2: learned positions, LayerNorm and biases everywhere, the head tied to the embedding."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from diffusion.autoregressive import Autoregressive
from experiments.config import Experiment
from experiments.published.family import Architecture, Family, Options, Sizes
from experiments.published.parts import Extended, Same, Shape, norm, stacked
from models.transformer import Transformer
from samplers.autoregressive import LeftToRight


def _conv1d(name: str) -> dict:
    """The layout of a dense layer that is held (inputs, outputs), as ours is."""
    return {"kernel": Same(f"{name}.weight"), "bias": Same(f"{name}.bias")}


@dataclass(frozen=True)
class GPT2(Family):
    """An autoregressive model; a text begins with <|endoftext|>."""

    name: str = "gpt2"
    takes: ClassVar[frozenset[str]] = frozenset({"length", "start"})
    prefixes: ClassVar[tuple[str, ...]] = ("transformer.",)
    buffers: ClassVar[str] = r"\.attn\.(masked_)?bias$"  # the causal mask

    def matches(self, keys: Collection[str], config: Mapping) -> bool:
        return "h.0.attn.c_attn.weight" in keys

    def read(self, shapes: Mapping[str, Shape], config: Mapping, options: Options) -> Architecture:
        sizes = Sizes(self.name, shapes, config)
        rows, width = sizes.of("wte.weight")
        positions = sizes.of("wpe.weight")[0]
        count = sizes.count(r"h\.(\d+)\.")
        hidden = sizes.of("h.0.mlp.c_fc.weight")[1]
        heads = sizes.needed("n_head")
        sizes.agree(vocab_size=rows, n_embd=width, n_layer=count, n_positions=positions)
        sizes.forms(
            activation_function="gelu_new", scale_attn_weights=True,
            scale_attn_by_inverse_layer_idx=False, add_cross_attention=False,
        )  # fmt: skip
        sizes.agree(n_inner=hidden)
        start = options.start
        if start is None:
            start = int(sizes.given("bos_token_id", sizes.given("eos_token_id", rows - 1)))
        sizes.notes.append(f"a text begins with token {start} (--start-token)")
        sizes.divided(width, 2 * heads, "config.json: n_head")
        model = Transformer(
            vocab_size=rows, num_layers=count, width=width, num_heads=heads, mlp_width=hidden,
            mlp_bias=True, norm="layer_bias", tied=True, attention_bias="zero",
            norm_eps=float(sizes.given("layer_norm_epsilon", 1e-5)),
            attention_out_bias=True, learned_positions=positions, block_length=1,
        )  # fmt: skip

        options = replace(options, start=start)
        return Architecture(
            model,
            Autoregressive(),
            LeftToRight(),
            options.length or positions,
            options,
            repeated=(("lm_head.weight", "wte.weight"),),
            notes=tuple(sizes.notes),
        )

    def layout(self, model: Transformer, options: Options) -> dict:
        def layer(i: int) -> dict:
            block = f"h.{i}"
            return {
                "norm_attention": norm(f"{block}.ln_1", bias=True),
                "attention": {
                    "qkv": _conv1d(f"{block}.attn.c_attn"),
                    "out": _conv1d(f"{block}.attn.c_proj"),
                },
                "norm_mlp": norm(f"{block}.ln_2", bias=True),
                "mlp": {
                    "up": _conv1d(f"{block}.mlp.c_fc"),
                    "down": _conv1d(f"{block}.mlp.c_proj"),
                },
            }

        ends = {
            "embedding": Extended("wte.weight", options.start),
            "positions": Same("wpe.weight"),
            "norm": norm("ln_f", bias=True),
        }
        return {"ends": ends, "layers": stacked(model.num_layers, layer)}

    def config(self, experiment: Experiment, model: Transformer, options: Options) -> dict:
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "activation_function": "gelu_new",
            "vocab_size": model.vocab_size,
            "n_embd": model.width,
            "n_layer": model.num_layers,
            "n_head": model.num_heads,
            "n_inner": model.mlp_width,
            "n_positions": model.learned_positions,
            "n_ctx": model.learned_positions,
            "layer_norm_epsilon": model.norm_eps,
            "bos_token_id": options.start,
            "eos_token_id": options.start,
            "tie_word_embeddings": True,
        }


FAMILIES: tuple[Family, ...] = (GPT2(),)
