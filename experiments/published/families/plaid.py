"""Plaid (arXiv 2305.18619): four files, by whose names keys begin here, with the network, and the
embeddings and the schedule that were learned with it.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from diffusion.gaussian import LearnedEmbeddings
from diffusion.log_snr import LearnedLogSNR
from diffusion.plaid import Plaid as Process
from experiments.config import Experiment
from experiments.published.family import Architecture, Family, Options, Sizes
from experiments.published.parts import Flat, Same, Scalars, Shape, linear, norm, stacked
from models.plaid import PlaidTransformer
from samplers.mean_ancestral import MeanAncestral

_TABLE = "embedding_matrix.matrix"


@dataclass(frozen=True)
class Plaid(Family):
    """Plaid-1B and networks of its code. Its files come without a config.json: ours, where there is one,
    has the arguments of its scripts."""

    name: str = "plaid"
    buffers: ClassVar[str] = r"^model\.rotary_emb\."

    def matches(self, keys: Collection[str], config: Mapping) -> bool:
        return {_TABLE, "noise_schedule.W1", "model.input_linear.weight"} <= set(keys)

    def read(self, shapes: Mapping[str, Shape], config: Mapping, options: Options) -> Architecture:
        sizes = Sizes(self.name, shapes, config)
        rows, embedded = sizes.of(_TABLE)
        width = sizes.of("model.input_linear.weight")[0]
        count = sizes.count(r"model\.blocks\.(\d+)\.")
        hidden = sizes.of("model.blocks.0.mlp.fc1.weight")[0]
        head = shapes.get("model.rotary_emb.inv_freq")
        heads = (
            sizes.needed("n_heads")
            if head is None
            else sizes.divided(width, 2 * head[0], "heads, by the rotary buffer")
        )
        sizes.agree(vocab_size=rows, embed_dim=embedded, dim=width, n_blocks=count, n_heads=heads)
        shift = math.log(embedded)
        schedule = LearnedLogSNR(-3.0, 6.0, shift, width=sizes.of("noise_schedule.b1")[0])
        process = Process(rows, LearnedEmbeddings(embedded), schedule, told="log_snr")
        model = PlaidTransformer(
            vocab_size=rows, num_layers=count, width=width, num_heads=heads, hidden=hidden,
            vector_width=2 * embedded, shift=shift,
        )  # fmt: skip
        sampler = MeanAncestral(steps=4096, score_temperature=0.9)
        length = options.length or int(sizes.given("seq_len", 1024))
        return Architecture(model, process, sampler, length, options, notes=tuple(sizes.notes))

    def layout(self, model: PlaidTransformer, options: Options) -> dict:
        def layer(i: int) -> dict:
            block = f"model.blocks.{i}"
            return {
                "norm_attention": norm(f"{block}.rmsnorm1"),
                "attention": {
                    "qkv": linear(f"{block}.attn_qkv"),
                    "out": linear(f"{block}.attn_out"),
                },
                "norm_mlp": norm(f"{block}.rmsnorm2"),
                "mlp": {"up": linear(f"{block}.mlp.fc1"), "down": linear(f"{block}.mlp.fc2")},
            }

        ends = {
            "vectors": linear("model.input_linear"),
            "estimate": linear("model.selfcond_linear"),
            "time": linear("model.gamma_linear"),
            "norm": norm("model.output_norm"),
            "head": linear("model.output_linear", bias=True),
        }
        schedule = {
            "ends": Scalars(("gamma_bounds.gamma_0", "gamma_bounds.gamma_1")),
            "inner": Flat("noise_schedule.W1", last=False),
            "offset": Same("noise_schedule.b1"),
            "outer": Flat("noise_schedule.W2"),
        }
        own = {"schedule": schedule, "embedding": {"embeddings": Same(_TABLE)}}
        return {"ends": ends, "layers": stacked(model.num_layers, layer), "process": own}

    def config(self, experiment: Experiment, model: PlaidTransformer, options: Options) -> dict:
        return {
            "dim": model.width,
            "embed_dim": (model.vector_width or 0) // 2,
            "n_blocks": model.num_layers,
            "n_heads": model.num_heads,
            "seq_len": experiment.data.length,
            "vocab_size": model.vocab_size,
        }


FAMILIES: tuple[Family, ...] = (Plaid(),)
