"""The configs of published networks have their sizes, to the parameter, and are what an import reads."""

from dataclasses import replace

import jax
import pytest

from experiments.overrides import load
from experiments.published.family import Options
from experiments.published.opening import FAMILIES
from models.backbone import num_parameters

LLADA = {"n_heads": 32, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "mask_token_id": 126336}
DREAM = {"num_attention_heads": 28, "rope_theta": 1000000.0, "mask_token_id": 151666}


def llada():
    """The shapes of LLaDA-8B's tensors."""
    at, width, hidden, rows = "transformer", 4096, 12288, 126464
    shapes = {f"{at}.{name}.weight": (rows, width) for name in ("wte", "ff_out")}
    shapes[f"{at}.ln_f.weight"] = (width,)
    for i in range(32):
        block = f"{at}.blocks.{i}"
        names = ("q_proj", "k_proj", "v_proj", "attn_out")
        shapes |= {f"{block}.{name}.weight": (width, width) for name in names}
        shapes |= {f"{block}.{x}_proj.weight": (hidden, width) for x in ("ff", "up")}
        shapes |= {f"{block}.{x}_norm.weight": (width,) for x in ("attn", "ff")}
        shapes[f"{block}.ff_out.weight"] = (width, hidden)
    return shapes


def dream():
    """The shapes of Dream-7B's tensors."""
    width, hidden, rows, keys = 3584, 18944, 152064, 512
    shapes = {f"{name}.weight": (rows, width) for name in ("embed_tokens", "lm_head")}
    shapes["norm.weight"] = (width,)
    for i in range(28):
        block, attention = f"layers.{i}", f"layers.{i}.self_attn"
        for name, outputs in (("q", width), ("k", keys), ("v", keys)):
            shapes[f"{attention}.{name}_proj.weight"] = (outputs, width)
            shapes[f"{attention}.{name}_proj.bias"] = (outputs,)
        shapes[f"{attention}.o_proj.weight"] = (width, width)
        shapes |= {f"{block}.mlp.{x}_proj.weight": (hidden, width) for x in ("gate", "up")}
        shapes[f"{block}.mlp.down_proj.weight"] = (width, hidden)
        norms = ("input_layernorm", "post_attention_layernorm")
        shapes |= {f"{block}.{name}.weight": (width,) for name in norms}
    return shapes


@pytest.mark.parametrize(
    "config, family, shapes, said, count",
    [
        ("llada_8b", "llada", llada, LLADA, 8_015_581_184),
        ("dream_7b", "dream", dream, DREAM, 7_615_616_512),
    ],
)
def test_a_config_is_the_published_network_and_a_row_for_the_mask(
    config, family, shapes, said, count
):
    experiment = load(f"configs/published/{config}.py")
    model = replace(experiment.model, scan=False, remat=False)
    (known,) = (f for f in FAMILIES if f.name == family)
    read = known.read(shapes(), said, Options())
    assert model == read.model
    assert (experiment.process, experiment.sampler) == (read.process, read.sampler)
    forms = jax.eval_shape(model.init, jax.random.key(0))
    assert num_parameters(forms) == count + model.width
