"""Networks of Llama's form: RMSNorm, gated feed-forward layers, rotary positions, no modulation by time.
LLaDA, Dream, Qwen 2 and 3 (as they are, autoregressive, or converted to masked ones: A2D), SMDM.

They predict all tokens of the file, the mask among them, so all stay data tokens here; the state of the
mask, which comes last, begins as a copy of the file's row for it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from diffusion.autoregressive import Autoregressive
from diffusion.block import BlockDiffusion
from diffusion.mdlm import MDLM
from diffusion.process import Objective
from experiments.config import Experiment
from experiments.errors import UserError
from experiments.published.family import Architecture, Family, Options, Sizes, without
from experiments.published.parts import (
    Beside,
    Extended,
    Grouped,
    Part,
    Same,
    Shape,
    Transposed,
    linear,
    norm,
    stacked,
)
from models.transformer import Transformer
from samplers.autoregressive import LeftToRight
from samplers.blocks import BlockByBlock
from samplers.sampler import Sampler
from samplers.unmask import Tokens, Unmask


def _masked(mask: int, options: Options) -> tuple[Objective, Sampler]:
    """The process and sampler of a network that fills in masks, one token a call, the surest first."""
    inner = Unmask("confidence", Tokens(1), logits_processor=without(mask))
    if options.block_size is None:
        return MDLM(), inner
    return BlockDiffusion(MDLM(), options.block_size), BlockByBlock(inner)


def _mask(options: Options, config: Mapping, sizes: Sizes) -> int:
    mask = options.mask
    if mask is None and config.get("mask_token_id") is not None:
        mask = int(sizes.given("mask_token_id", -1))
    if mask is None:
        raise UserError(
            "neither config.json nor an option gives the mask token; give --mask-token, a number "
            "or, with --tokenizer, its name"
        )
    sizes.notes.append(f"the mask is token {mask}, which is never drawn")
    return mask


def _tied(said: object, stored: bool) -> bool:
    """Whether the head is the table of embeddings: it is then left out, or stored a second time. A file
    that says that it is not has to have one, which `check_layout` sees."""
    return said is True or (said is None and not stored)


def _heads(model: Transformer) -> tuple[int, int, int]:
    """The widths of queries, keys and values."""
    keys = model.key_heads * model.channels
    return model.num_heads * model.channels, keys, keys


def _gated(names: tuple[str, ...], sizes: tuple[int, ...], bias: bool) -> dict:
    """The layout of matrices of (outputs, inputs) that are one here, side by side."""

    def beside(kind: str, part: type) -> Part:
        return Beside(tuple(part(f"{name}.{kind}") for name in names), sizes)

    return {"kernel": beside("weight", Transposed)} | (
        {"bias": beside("bias", Same)} if bias else {}
    )


@dataclass(frozen=True)
class LLaDA(Family):
    """LLaDA (arXiv 2502.09992): keys of OLMo."""

    name: str = "llada"
    takes: ClassVar[frozenset[str]] = frozenset({"length", "mask", "block_size"})
    prefixes: ClassVar[tuple[str, ...]] = ("model.",)

    def matches(self, keys: Collection[str], config: Mapping) -> bool:
        return "transformer.blocks.0.ff_proj.weight" in keys

    def read(self, shapes: Mapping[str, Shape], config: Mapping, options: Options) -> Architecture:
        sizes, at = Sizes(self.name, shapes, config), "transformer.blocks"
        rows, width = sizes.of("transformer.wte.weight")
        count = sizes.count(r"transformer\.blocks\.(\d+)\.")
        queries, keys = (sizes.of(f"{at}.0.{x}_proj.weight")[0] for x in "qk")
        hidden = sizes.of(f"{at}.0.ff_proj.weight")[0]
        heads = sizes.needed("n_heads")
        head = sizes.divided(queries, heads, "config.json: n_heads")
        sizes.agree(
            d_model=width, n_layers=count, embedding_size=rows, mlp_hidden_size=hidden,
            n_kv_heads=keys // head,
        )  # fmt: skip
        sizes.forms(
            alibi=False, rope=True, include_bias=False, include_qkv_bias=False, scale_logits=False,
            input_emb_norm=False, attention_layer_norm=False, activation_type="silu",
            block_type="llama", layer_norm_type="rms",
        )  # fmt: skip
        mask = _mask(options, config, sizes)
        tied = _tied(config.get("weight_tying"), "transformer.ff_out.weight" in shapes)
        process, sampler = _masked(mask, options)
        model = Transformer(
            vocab_size=rows, num_layers=count, width=width, num_heads=heads,
            num_key_heads=sizes.divided(keys, head, "heads of keys"), head_width=head,
            mlp="swiglu", mlp_width=hidden, norm="rms", tied=tied, head_bias=False,
            norm_eps=float(sizes.given("rms_norm_eps", 1e-5)),
            rotary_base=sizes.rotary_base("rope_theta", 500_000.0),
            block_length=process.traits.attention_block,
        )  # fmt: skip

        length = options.length or int(sizes.given("max_sequence_length", 4096))
        options = replace(options, mask=mask)
        repeated = (("transformer.ff_out.weight", "transformer.wte.weight"),) if tied else ()
        return Architecture(
            model, process, sampler, length, options, repeated, notes=tuple(sizes.notes)
        )

    def layout(self, model: Transformer, options: Options) -> dict:
        hidden, split = model.hidden, _heads(model)

        def layer(i: int) -> dict:
            block = f"transformer.blocks.{i}"
            qkv = (f"{block}.q_proj", f"{block}.k_proj", f"{block}.v_proj")
            return {
                "norm_attention": norm(f"{block}.attn_norm"),
                "attention": {
                    "qkv": _gated(qkv, split, bias=False),
                    "out": linear(f"{block}.attn_out"),
                },
                "norm_mlp": norm(f"{block}.ff_norm"),
                "mlp": {
                    "up": _gated((f"{block}.ff_proj", f"{block}.up_proj"), (hidden, hidden), False),
                    "down": linear(f"{block}.ff_out"),
                },
            }

        ends = {
            "embedding": Extended("transformer.wte.weight", options.mask, returns=True),
            "norm": norm("transformer.ln_f"),
        } | ({} if model.tied else {"head": linear("transformer.ff_out")})
        return {"ends": ends, "layers": stacked(model.num_layers, layer)}

    def key_in_file(self, key: str) -> str:
        return f"model.{key}"

    def config(self, experiment: Experiment, model: Transformer, options: Options) -> dict:
        return {
            "model_type": "llada",
            "architectures": ["LLaDAModelLM"],
            "block_type": "llama",
            "activation_type": "silu",
            "layer_norm_type": "rms",
            "rope": True,
            "include_bias": False,
            "vocab_size": model.vocab_size,
            "embedding_size": model.vocab_size,
            "d_model": model.width,
            "n_layers": model.num_layers,
            "n_heads": model.num_heads,
            "n_kv_heads": model.key_heads,
            "mlp_hidden_size": model.hidden,
            "rms_norm_eps": model.norm_eps,
            "rope_theta": model.rotary_base,
            "weight_tying": model.tied,
            "mask_token_id": options.mask,
            "max_sequence_length": experiment.data.length,
        }


@dataclass(frozen=True)
class Qwen(Family):
    """Dream (arXiv 2508.15487), Qwen 2 and 3, and these as masked models (A2D).

    name, types: the family, and what config.json calls `model_type`. diffuses: whether it fills in
    masks; Qwen's own models go from left to right. shifted: whether an output speaks of the next place.
    """

    name: str
    types: tuple[str, ...]
    diffuses: bool = True
    shifted: bool = False
    prefixes: ClassVar[tuple[str, ...]] = ("model.",)
    buffers: ClassVar[str] = r"rotary_emb\.inv_freq$"

    @property
    def takes(self) -> frozenset[str]:
        """As `Family.takes`."""
        own = {"mask", "block_size"} if self.diffuses else {"start"}
        return frozenset({"length", *own})

    def matches(self, keys: Collection[str], config: Mapping) -> bool:
        kind = config.get("model_type")
        kind = kind.lower() if isinstance(kind, str) else None
        return "layers.0.self_attn.q_proj.weight" in keys and kind in self.types

    def read(self, shapes: Mapping[str, Shape], config: Mapping, options: Options) -> Architecture:
        sizes = Sizes(self.name, shapes, config)
        rows, width = sizes.of("embed_tokens.weight")
        count = sizes.count(r"layers\.(\d+)\.")
        queries, keys = (sizes.of(f"layers.0.self_attn.{x}_proj.weight")[0] for x in "qk")
        hidden = sizes.of("layers.0.mlp.gate_proj.weight")[0]
        normed = "layers.0.self_attn.q_norm.weight" in shapes
        bias = "layers.0.self_attn.q_proj.bias" in shapes
        heads = sizes.needed("num_attention_heads")
        head = sizes.divided(queries, heads, "config.json: num_attention_heads")
        if normed:
            head = sizes.of("layers.0.self_attn.q_norm.weight")[0]
        tied = _tied(config.get("tie_word_embeddings"), "lm_head.weight" in shapes)
        sizes.agree(
            vocab_size=rows, hidden_size=width, num_hidden_layers=count, intermediate_size=hidden,
            num_attention_heads=queries // head, num_key_value_heads=keys // head, head_dim=head,
        )  # fmt: skip
        sizes.forms(hidden_act="silu", use_sliding_window=False)
        if "layers.0.self_attn.o_proj.bias" in shapes:
            raise UserError("biases of self_attn.o_proj are unsupported")
        process, sampler, options = self._process(sizes, config, options)
        model = Transformer(
            vocab_size=rows, num_layers=count, width=width, num_heads=heads,
            num_key_heads=sizes.divided(keys, head, "heads of keys"), head_width=head,
            mlp="swiglu", mlp_width=hidden, norm="rms", tied=tied, head_bias=False, qk_norm=normed,
            norm_eps=float(sizes.given("rms_norm_eps", 1e-6)),
            rotary_base=sizes.rotary_base("rope_theta", 1_000_000.0),
            attention_bias="zero" if bias else "none", shifted=self.shifted,
            block_length=process.traits.attention_block,
        )  # fmt: skip

        length = options.length or min(int(sizes.given("max_position_embeddings", 2048)), 2048)
        repeated = (("lm_head.weight", "embed_tokens.weight"),) if tied else ()
        return Architecture(
            model, process, sampler, length, options, repeated, notes=tuple(sizes.notes)
        )

    def layout(self, model: Transformer, options: Options) -> dict:
        hidden, split = model.hidden, _heads(model)
        bias, normed = model.attention_bias == "zero", model.qk_norm

        def layer(i: int) -> dict:
            block, attention = f"layers.{i}", f"layers.{i}.self_attn"
            qkv = tuple(f"{attention}.{x}_proj" for x in "qkv")
            norms = {f"{x}_norm": norm(f"{attention}.{x}_norm") for x in "qk"} if normed else {}
            gated = (f"{block}.mlp.gate_proj", f"{block}.mlp.up_proj")
            return {
                "norm_attention": norm(f"{block}.input_layernorm"),
                "attention": norms
                | {
                    "qkv": _gated(qkv, split, bias),
                    "out": linear(f"{attention}.o_proj"),
                },
                "norm_mlp": norm(f"{block}.post_attention_layernorm"),
                "mlp": {
                    "up": _gated(gated, (hidden, hidden), False),
                    "down": linear(f"{block}.mlp.down_proj"),
                },
            }

        table = "embed_tokens.weight"
        ends = {
            "embedding": Extended(table, options.mask, returns=True)
            if self.diffuses
            else Extended(table, options.start),
            "norm": norm("norm"),
        }
        ends |= {} if model.tied else {"head": linear("lm_head")}
        return {"ends": ends, "layers": stacked(model.num_layers, layer)}

    def key_in_file(self, key: str) -> str:
        return key if key.startswith("lm_head.") else f"model.{key}"

    def config(self, experiment: Experiment, model: Transformer, options: Options) -> dict:
        kind = self.types[0]
        return {
            "model_type": "Dream" if kind == "dream" else kind,
            "vocab_size": model.vocab_size,
            "hidden_size": model.width,
            "num_hidden_layers": model.num_layers,
            "num_attention_heads": model.num_heads,
            "num_key_value_heads": model.key_heads,
            "head_dim": model.channels,
            "intermediate_size": model.hidden,
            "hidden_act": "silu",
            "rms_norm_eps": model.norm_eps,
            "rope_theta": model.rotary_base,
            "tie_word_embeddings": model.tied,
            "max_position_embeddings": experiment.data.length,
        } | ({"mask_token_id": options.mask} if self.diffuses else {"bos_token_id": options.start})

    def _process(self, sizes: Sizes, config: Mapping, options: Options):
        """(process, sampler, the options with the mask or the start token)."""
        if self.diffuses:
            mask = _mask(options, config, sizes)
            return *_masked(mask, options), replace(options, mask=mask)
        start = options.start
        if start is None:
            start = int(sizes.given("bos_token_id", sizes.given("eos_token_id", 0)))
        sizes.notes.append(f"a text begins with token {start} (--start-token)")
        return Autoregressive(), LeftToRight(), replace(options, start=start)


@dataclass(frozen=True)
class SMDM(Family):
    """SMDM (arXiv 2410.18514): keys of lit-gpt; the mask has a row in the table and none in the head."""

    name: str = "smdm"
    prefixes: ClassVar[tuple[str, ...]] = ("model.",)

    def matches(self, keys: Collection[str], config: Mapping) -> bool:
        return "transformer.h.0.attn.attn.weight" in keys

    def read(self, shapes: Mapping[str, Shape], config: Mapping, options: Options) -> Architecture:
        sizes, at = Sizes(self.name, shapes, config), "transformer.h"
        rows, width = sizes.of("transformer.wte.weight")
        tokens = sizes.of("lm_head.weight")[0]
        count = sizes.count(r"transformer\.h\.(\d+)\.")
        hidden = sizes.of(f"{at}.0.mlp.swiglu.w1.weight")[0]
        heads = sizes.needed("n_head")
        groups = int(sizes.given("n_query_groups", heads))
        sizes.divided(heads, groups, "config.json: n_head and n_query_groups")
        head = sizes.divided(
            sizes.of(f"{at}.0.attn.attn.weight")[0], heads + 2 * groups, "n_query_groups"
        )
        sizes.agree(n_embd=width, n_layer=count, intermediate_size=hidden, padded_vocab_size=tokens)
        sizes.forms(
            bias=False, parallel_residual=False, shared_attention_norm=False, rotary_percentage=1.0,
            condense_ratio=1, _mlp_class="LLaMAMLP",
        )  # fmt: skip
        if rows != tokens + 1:
            raise UserError(
                f"transformer.wte.weight has {rows} rows and lm_head.weight {tokens}; in "
                "checkpoints of the family smdm the first has one more, the mask"
            )
        process, sampler = MDLM(), Unmask("confidence", Tokens(1))
        model = Transformer(
            vocab_size=tokens, num_layers=count, width=width, num_heads=heads,
            num_key_heads=groups, head_width=head, mlp="swiglu", mlp_width=hidden, norm="rms",
            head_bias=False, norm_eps=float(sizes.given("norm_eps", 1e-5)),
        )  # fmt: skip

        length = options.length or int(sizes.given("block_size", 2048))
        return Architecture(model, process, sampler, length, options, notes=tuple(sizes.notes))

    def layout(self, model: Transformer, options: Options) -> dict:
        groups, hidden = model.key_heads, model.hidden

        def layer(i: int) -> dict:
            block = f"transformer.h.{i}"
            gated = (f"{block}.mlp.swiglu.w1", f"{block}.mlp.swiglu.w2")
            qkv = Grouped(f"{block}.attn.attn.weight", groups, model.num_heads // groups)
            return {
                "norm_attention": norm(f"{block}.norm_1"),
                "attention": {"qkv": {"kernel": qkv}, "out": linear(f"{block}.attn.proj")},
                "norm_mlp": norm(f"{block}.norm_2"),
                "mlp": {
                    "up": _gated(gated, (hidden, hidden), False),
                    "down": linear(f"{block}.mlp.swiglu.w3"),
                },
            }

        ends = {
            "embedding": Same("transformer.wte.weight"),
            "norm": norm("transformer.ln_f"),
            "head": linear("lm_head"),
        }
        return {"ends": ends, "layers": stacked(model.num_layers, layer)}

    def config(self, experiment: Experiment, model: Transformer, options: Options) -> dict:
        return {
            "name": "Diff_LLaMA",
            "n_layer": model.num_layers,
            "n_head": model.num_heads,
            "n_query_groups": model.key_heads,
            "n_embd": model.width,
            "intermediate_size": model.hidden,
            "norm_eps": model.norm_eps,
            "padded_vocab_size": model.vocab_size,
            "vocab_size": model.vocab_size,
            "block_size": experiment.data.length,
        }


FAMILIES: tuple[Family, ...] = (
    LLaDA(),
    Qwen("dream", ("dream",), shifted=True),
    Qwen("a2d-qwen2", ("a2d-qwen2",)),
    Qwen("a2d-qwen3", ("a2d-qwen3",)),
    Qwen("qwen2", ("qwen2",), diffuses=False),
    Qwen("qwen3", ("qwen3",), diffuses=False),
    SMDM(),
)
