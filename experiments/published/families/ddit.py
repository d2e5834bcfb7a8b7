"""The transformer of SEDD, which MDLM, BD3-LM, Duo, UDLM, RADD and the autoregressive model of MDLM's
code share: LayerNorm, biases in the feed-forward layers alone, rotary positions, and, but for the last
two, layers modulated by a time input (DiT), which some always set to 0.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from diffusion.autoregressive import Autoregressive
from diffusion.block import BlockDiffusion
from diffusion.gidd import GIDD
from diffusion.kernels import Uniform
from diffusion.mdlm import MDLM
from diffusion.process import Objective
from diffusion.schedules import Geometric, Linear, Schedule
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM
from experiments.config import Experiment
from experiments.errors import UserError
from experiments.published.family import Architecture, Family, Options, Sizes, without
from experiments.published.parts import (
    Extended,
    FirstOutputs,
    Same,
    Shape,
    Transposed,
    linear,
    norm,
    stacked,
)
from models.time_inputs import GeometricNoise, LogLinearNoise, Plain, TimeInput
from models.transformer import Transformer
from samplers.ancestral import Ancestral
from samplers.autoregressive import LeftToRight
from samplers.blocks import BlockByBlock
from samplers.first_hitting import FirstHitting
from samplers.sampler import Sampler
from samplers.tweedie import Tweedie

_EPS = 1e-3  # of the log-linear schedules of all of them


@dataclass(frozen=True)
class DDiT(Family):
    """A network of this form whose last token is the mask, or that has none.

    name, config_type: of the family, and what its config.json calls `model_type`. masks: whether the
    last token is a mask, whose output means nothing. conditioned, biased: whether layers are modulated,
    and norms have biases, by which families are told apart. time_input: what the network is told of the
    time, None for one that is always told 0. make: the process and sampler.
    """

    name: str
    config_type: str | None
    make: Callable[["Sizes", Options], tuple[Objective, Sampler]]
    masks: bool = True
    conditioned: bool = True
    biased: bool = False
    causal: bool = False
    time_input: TimeInput | None = None
    prefixes: ClassVar[tuple[str, ...]] = ("backbone.",)
    buffers: ClassVar[str] = (
        r"^rotary_emb\.|^logit_bias$|^sampling_eps_m(in|ax)$|^(noise|metrics|softplus|neg_infinity)|torchmetrics"
    )

    def matches(self, keys: Collection[str], config: Mapping) -> bool:
        if "vocab_embed.embedding" not in keys:
            return False
        form = "sigma_map.mlp.0.weight" in keys, "blocks.0.norm1.bias" in keys
        if form != (self.conditioned, self.biased):
            return False
        kind = config.get("model_type")
        kind = "sedd" if "graph" in config else kind.lower() if isinstance(kind, str) else None
        return not self.conditioned or self.config_type == kind

    def read(self, shapes: Mapping[str, Shape], config: Mapping, options: Options) -> Architecture:
        sizes = Sizes(self.name, shapes, self.settings(config))
        rows, width = sizes.of("vocab_embed.embedding")
        count = sizes.count(r"blocks\.(\d+)\.")
        hidden = sizes.of("blocks.0.mlp.0.weight")[0]
        heads = _heads(sizes, width)
        sizes.agree(
            vocab_size=rows, tokens=rows - self.masks, hidden_dim=width, hidden_size=width,
            n_blocks=count, n_heads=heads,
        )  # fmt: skip
        sizes.forms(**self.forms())
        condition = None
        if self.conditioned:
            condition = sizes.of("sigma_map.mlp.2.weight")[0]
            sizes.agree(cond_dim=condition)
        classes = shapes.get("cond_map.embedding_table.weight", (None,))[0]
        if classes is not None:
            sizes.agree(cfg_num_classes=classes - 1)
        elif sizes.config.get("cfg"):
            sizes.of("cond_map.embedding_table.weight")
        process, sampler = self.make(sizes, options)
        tokens = rows - self.masks
        # A text of the autoregressive model begins with <|endoftext|>, the token before the mask.
        start = None
        if self.causal:
            start = tokens - 1 if options.start is None else options.start
            sizes.notes.append(f"a text begins with token {start} (--start-token)")
        timed = self.time_input_of(sizes)
        model = Transformer(
            vocab_size=tokens,
            num_layers=count,
            width=width,
            num_heads=heads,
            mlp_width=hidden,
            mlp_bias=True,
            norm="layer_bias" if self.biased else "layer",
            time_conditioning=timed is not None,
            constant_condition=self.conditioned and timed is None,
            condition_width=condition or 128,
            num_labels=None if classes is None else classes - 1,
            label_activation="silu" if classes is not None else "none",
            block_length=process.traits.attention_block,
        )
        if timed is not None:
            model = replace(model, time_input=timed)
        length = options.length or int(
            sizes.given("model_length", 0) or sizes.given("length", 0) or 1024
        )
        options = replace(options, start=start, block_size=process.traits.attention_block)
        return Architecture(model, process, sampler, length, options, notes=tuple(sizes.notes))

    def layout(self, model: Transformer, options: Options) -> dict:
        V, biased = model.vocab_size, self.biased
        assert V is not None  # of a network that is made

        def layer(i: int) -> dict:
            block = f"blocks.{i}"
            return {
                "norm_attention": norm(f"{block}.norm1", biased),
                "attention": {
                    "qkv": linear(f"{block}.attn_qkv"),
                    "out": linear(f"{block}.attn_out"),
                },
                "norm_mlp": norm(f"{block}.norm2", biased),
                "mlp": {
                    "up": linear(f"{block}.mlp.0", bias=True),
                    "down": linear(f"{block}.mlp.2", bias=True),
                },
            } | (
                {"modulation": linear(f"{block}.adaLN_modulation", True)}
                if self.conditioned
                else {}
            )

        table, out = "vocab_embed.embedding", "output_layer.linear"
        embedding = Same(table) if self.masks else Extended(table)
        if self.causal:
            embedding = Extended(table, options.start, count=V)
        ends: dict = {
            "embedding": embedding,
            "norm": norm("output_layer.norm_final", biased),
            "head": {
                "kernel": FirstOutputs(f"{out}.weight", V)
                if self.masks
                else Transposed(f"{out}.weight"),
                "bias": FirstOutputs(f"{out}.bias", V) if self.masks else Same(f"{out}.bias"),
            },
        }
        if self.conditioned:
            ends["time"] = {
                "up": linear("sigma_map.mlp.0", True),
                "out": linear("sigma_map.mlp.2", True),
            }
            ends["modulation"] = linear("output_layer.adaLN_modulation", True)
        if model.num_labels is not None:
            ends["labels"] = {"embedding": Same("cond_map.embedding_table.weight")}
        return {"ends": ends, "layers": stacked(model.num_layers, layer)}

    def key_in_file(self, key: str) -> str:
        return key if self.config_type in ("sedd", None) and not self.causal else f"backbone.{key}"

    def config(self, experiment: Experiment, model: Transformer, options: Options) -> dict:
        V = (model.vocab_size or 0) + self.masks
        if self.config_type in ("sedd", None) and not self.causal:
            return self._hydra_config(experiment, model)
        config = {
            "model_type": self.config_type or "bd3lm",
            "vocab_size": V,
            "model_length": experiment.data.length,
            "hidden_dim": model.width,
            "cond_dim": model.condition_width,
            "n_blocks": model.num_layers,
            "n_heads": model.num_heads,
            "dropout": model.dropout,
            "time_conditioning": model.time_conditioning,
            "causal": self.causal,
        }
        if options.block_size is not None:
            config |= {"block_size": options.block_size, "adaln": self.conditioned}
        if model.num_labels is not None:
            config |= {"cfg": True, "cfg_num_classes": model.num_labels}
        return config

    def _hydra_config(self, experiment: Experiment, model: Transformer) -> dict:
        """That of SEDD and RADD, which is the config of a training."""
        network = {
            "hidden_size": model.width,
            "cond_dim": model.condition_width,
            "length": experiment.data.length,
            "n_blocks": model.num_layers,
            "n_heads": model.num_heads,
            "dropout": model.dropout,
        }
        config = {"tokens": model.vocab_size, "model": network, "noise": {"type": "loglinear"}}
        if self.config_type == "sedd":
            process: Any = experiment.process
            network["scale_by_sigma"] = process.scaled
            config["graph"] = {"type": "absorb" if self.masks else "uniform"}
            ends = {k: v for k, v in vars(process.schedule).items() if k.startswith("sigma_")}
            config["noise"] = {"type": "geometric", **ends} if ends else config["noise"]
        return config

    def settings(self, config: Mapping) -> dict:
        """A config.json by the names of MDLM's; that of SEDD and RADD is that of a whole training."""
        inner = config.get("model")
        return {**config, **(inner if isinstance(inner, dict) else {})}

    def time_input_of(self, sizes: Sizes) -> TimeInput | None:
        """What the network is told of the time."""
        return self.time_input

    def forms(self) -> dict[str, object]:
        """What config.json may say of the form of the network, and nothing else. Of time_conditioning
        only the families that keep it there say something (Duo's config has no such key)."""
        forms: dict[str, object] = {"causal": self.causal, "adaln": self.conditioned}
        if self.config_type in ("mdlm", "bd3lm", "udlm"):
            forms["time_conditioning"] = self.time_input is not None
        return forms

    @property
    def takes(self) -> frozenset[str]:
        """As `Family.takes`."""
        own = {"start"} if self.causal else {"block_size"} if self.name == "bd3lm" else set()
        return frozenset({"length", *own})


def _heads(sizes: Sizes, width: int) -> int:
    """The number of heads, which the rotary buffer tells, or config.json."""
    buffer = sizes.shapes.get("rotary_emb.inv_freq")
    head = sizes.shapes.get("rotary_emb.cos_cached", (0,))[-1] if buffer is None else 2 * buffer[0]
    if head:
        return sizes.divided(width, head, "heads, by the rotary buffer")
    heads = sizes.needed("n_heads")
    sizes.divided(width, 2 * heads, "config.json: n_heads")
    return heads


def _geometric(sizes: Sizes) -> bool:
    noise = sizes.config.get("noise")
    kind = noise.get("type") if isinstance(noise, dict) else "loglinear"
    if kind not in ("loglinear", "geometric"):
        raise UserError(f"config.json: noise.type = {kind!r} is neither loglinear nor geometric")
    return kind == "geometric"


def _ends(sizes: Sizes) -> tuple[float, float]:
    noise = Sizes(sizes.family, {}, sizes.config["noise"])
    return float(noise.given("sigma_min", 1e-4)), float(noise.given("sigma_max", 20.0))


def _schedule(sizes: Sizes) -> Schedule:
    return Geometric(*_ends(sizes)) if _geometric(sizes) else Linear(_EPS)


def _mdlm(sizes: Sizes, options: Options):
    return MDLM(), FirstHitting(steps=1000)


def _radd(sizes: Sizes, options: Options):
    return MDLM(), FirstHitting()


def _bd3lm(sizes: Sizes, options: Options):
    size = int(options.block_size or sizes.given("block_size", 0))
    if size < 1:
        raise UserError("config.json does not give block_size; give --block-size")
    said = sizes.config.get("block_size")
    if said not in (None, size):
        sizes.notes.append(f"blocks of {size} tokens, though config.json says {said}")
    process = BlockDiffusion(MDLM(), block_length=size)
    return process, BlockByBlock(Ancestral(steps=size))


def _sedd(sizes: Sizes, options: Options):
    graph = sizes.config.get("graph")
    kind = graph.get("type") if isinstance(graph, dict) else None
    scaled = sizes.config.get("scale_by_sigma")
    if kind not in ("absorb", None):
        raise UserError(f"config.json: graph.type = {kind!r} is neither absorb nor uniform")
    if kind is None:
        sizes.notes.append("no config.json tells the graph: absorb, with scale_by_sigma")
        scaled = True
    return SEDD(schedule=_schedule(sizes), scaled=bool(scaled)), Tweedie(steps=1024)


def _sedd_uniform(sizes: Sizes, options: Options):
    if sizes.config.get("scale_by_sigma"):
        raise UserError(
            "config.json: model.scale_by_sigma = True is for graph.type = absorb alone; correct it"
        )
    return SEDD(kernel=Uniform(), schedule=_schedule(sizes)), Tweedie(steps=1024)


def _duo(sizes: Sizes, options: Options):
    # Its last token is [PAD], a state of the uniform prior that text does not have.
    pad = sizes.of("vocab_embed.embedding")[0] - 1
    sizes.notes.append(f"token {pad} is [PAD], which is never drawn")
    return UDLM(schedule=Linear(_EPS)), Ancestral(steps=1000, logits_processor=without(pad))


def _udlm(sizes: Sizes, options: Options):
    return UDLM(schedule=Linear(_EPS)), Ancestral(steps=1000)


def _ar(sizes: Sizes, options: Options):
    return Autoregressive(), LeftToRight()


@dataclass(frozen=True)
class Sedd(DDiT):
    """SEDD's two graphs: the absorbing one has a mask, the uniform one none."""

    graph: str = "absorb"

    def time_input_of(self, sizes: Sizes) -> TimeInput | None:
        return GeometricNoise(*_ends(sizes)) if _geometric(sizes) else self.time_input

    def matches(self, keys: Collection[str], config: Mapping) -> bool:
        graph = config.get("graph")
        uniform = isinstance(graph, dict) and graph.get("type") == "uniform"
        return super().matches(keys, config) and uniform == (self.graph == "uniform")


def _gidd(sizes: Sizes, options: Options):
    rows = sizes.of("vocab_embed.embedding")[0]
    if rows == 50304:
        raise UserError(
            "its vocabulary is padded to 50304 with outputs that take part in the softmax, which "
            "is unsupported; use the released file of 50259 tokens"
        )
    # Of the V tokens the last is [PAD], which the released training leaves out of texts.
    sizes.notes.append(f"token {rows - 2} is [PAD], which is never drawn")
    if sizes.config.get("p_uniform") is None:
        raise UserError("config.json does not give p_uniform, which the process needs; add it")
    process = GIDD(p_uniform=float(sizes.given("p_uniform", 0.0)))
    return process, Ancestral(steps=512, logits_processor=without(rows - 2))


@dataclass(frozen=True)
class Gidd(DDiT):
    """GIDD, whose config.json has names of its own."""

    def settings(self, config: Mapping) -> dict:
        return {**config, **{ours: config[name] for name, ours in _GIDD.items() if name in config}}

    def key_in_file(self, key: str) -> str:
        return key

    def config(self, experiment: Experiment, model: Transformer, options: Options) -> dict:
        config = super().config(experiment, model, options)
        names = {ours: name for name, ours in _GIDD.items()}
        process: Any = experiment.process
        settings = {"hidden_dim": "hidden_size", **names}
        return {settings[k]: config[k] for k in config if k in settings} | {
            "model_type": "dit",
            "vocab_size": config["vocab_size"],
            "p_uniform": process.p_uniform,
        }


_GIDD = {
    "max_seq_len": "model_length",
    "timestep_cond_dim": "cond_dim",
    "num_hidden_layers": "n_blocks",
    "num_attention_heads": "n_heads",
}


FAMILIES: tuple[Family, ...] = (
    DDiT("mdlm", "mdlm", _mdlm),
    Sedd("sedd", "sedd", _sedd, time_input=LogLinearNoise(_EPS)),
    Sedd(
        "sedd-uniform",
        "sedd",
        _sedd_uniform,
        masks=False,
        time_input=LogLinearNoise(_EPS),
        graph="uniform",
    ),
    DDiT("bd3lm", "bd3lm", _bd3lm),
    DDiT("udlm", "udlm", _udlm, masks=False, time_input=LogLinearNoise(_EPS)),
    DDiT("duo", "duo", _duo, masks=False, time_input=LogLinearNoise(_EPS)),
    Gidd("gidd", "dit", _gidd, time_input=Plain()),
    DDiT("radd", None, _radd, conditioned=False, biased=True),
    DDiT("ar", None, _ar, conditioned=False, causal=True),
)
