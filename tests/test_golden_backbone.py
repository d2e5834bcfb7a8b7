"""The backbone with the parameters of the official networks: its outputs are theirs, in float32."""

import re
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import reference

from models.backbone import Network
from models.transformer import Transformer

TOLERANCE = dict(rtol=1e-5, atol=1e-5)


def modules(a, names):
    """{"kernel": ..., "bias": ...} of linear layers of the same form; those of torch are (out, in)."""
    module = {"kernel": np.stack([a[f"{name}.weight"].T for name in names])}
    if f"{names[0]}.bias" in a:
        module["bias"] = np.stack([a[f"{name}.bias"] for name in names])
    return module


def module(a, name, columns=None):
    return {key: leaf[0, ..., :columns] for key, leaf in modules(a, [name]).items()}


def converted(a, block_length=None) -> Network:
    """Ours has no output column of the mask, the last token."""
    rows, width = a["vocab_embed.embedding"].shape
    count = len({match[1] for key in a if (match := re.match(r"blocks\.(\d+)\.", key))})
    timed = "sigma_map.mlp.0.weight" in a
    model = Transformer(
        vocab_size=rows - 1,
        num_layers=count,
        width=width,
        num_heads=width // (2 * len(a["rotary_emb.inv_freq"])),
        mlp_ratio=a["blocks.0.mlp.0.weight"].shape[0] / width,
        mlp_bias=True,
        norm="layer",
        time_conditioning=timed,
        condition_width=len(a["sigma_map.mlp.2.bias"]) if timed else 1,
        block_length=block_length,
        dtype="float32",
    )

    def stacked(name):
        return modules(a, [f"blocks.{i}.{name}" for i in range(count)])

    def scales(name):
        return {"scale": np.stack([a[f"blocks.{i}.{name}.weight"] for i in range(count)])}

    layers = {
        "norm_attention": scales("norm1"),
        "attention": {"qkv": stacked("attn_qkv"), "out": stacked("attn_out")},
        "norm_mlp": scales("norm2"),
        "mlp": {"up": stacked("mlp.0"), "down": stacked("mlp.2")},
    }
    ends = {
        "embedding": a["vocab_embed.embedding"],
        "norm": {"scale": a["output_layer.norm_final.weight"]},
        "head": module(a, "output_layer.linear", rows - 1),
    }
    if timed:
        layers["modulation"] = stacked("adaLN_modulation")
        ends["modulation"] = module(a, "output_layer.adaLN_modulation")
        ends["time"] = {"up": module(a, "sigma_map.mlp.0"), "out": module(a, "sigma_map.mlp.2")}
    params = jax.tree.map(jnp.asarray, {"ends": ends, "layers": layers})
    form = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, form)
    return Network(model, params)


def time_of(sigma):
    """The t (B, 1) whose embedding is that of sigma: ours is of 1000 t, the official one of sigma."""
    return jnp.asarray(sigma / 1000, jnp.float32)[:, None]


def outputs(network, z, t, context=None):
    """As network(z, t, context=context)."""
    return jax.jit(network.backbone.apply)(network.params, z, t, context=context)


def decoded(network, z, t, context, size):
    """Outputs of z, `size` positions at a time, with a cache that is filled from `context` (B, L)."""
    decode = jax.jit(lambda z, cache, start: network.decode(z, t, cache, start))
    cache, outputs = network.cache(*z.shape), []
    for start in range(0, z.shape[1], size):
        here = slice(start, start + size)
        outputs.append(decode(z[:, here], cache, start)[0])
        _, cache = decode(context[:, here], cache, start)
    return jnp.concatenate(outputs, axis=1)


class Blocks(NamedTuple):
    """The block diffusion network and what it is asked."""

    network: Network
    a: dict[str, np.ndarray]
    t: jax.Array
    z: jax.Array
    x0: jax.Array
    size: int
    V: int


@pytest.fixture(scope="module")
def blocks():
    """The file does not say how long its blocks are: as long as makes the outputs agree best."""
    a, network = reference("backbone_bd3lm"), converted(reference("backbone_bd3lm_params"))
    t, z, V = time_of(a["sigma"]), jnp.asarray(a["xt"]), network.backbone.vocab_size

    def with_blocks(size):
        return replace(network, backbone=replace(network.backbone, block_length=size))

    def distance(size):
        return np.abs(outputs(with_blocks(size), z, t) - a["logits_sample"][..., :V]).max()

    length = z.shape[1]
    size = min((n for n in range(1, length) if length % n == 0), key=distance)
    return Blocks(with_blocks(size), a, t, z, jnp.asarray(a["x0"]), size, V)


def test_causal_network():
    """Officially it gives log probabilities, of the mask none."""
    a, network = reference("backbone_mdlm_ar"), converted(reference("backbone_mdlm_ar_params"), 1)
    x, V = jnp.asarray(a["x"]), network.backbone.vocab_size
    assert a["logits"].shape[-1] == V + 1 and np.exp(a["logits"][..., V]).max() == 0
    log_p = jax.nn.log_softmax(outputs(network, x, jnp.zeros((len(x), 1))))
    np.testing.assert_allclose(log_p, a["logits"][..., :V], **TOLERANCE)


def test_causal_network_token_by_token():
    a, network = reference("backbone_mdlm_ar"), converted(reference("backbone_mdlm_ar_params"), 1)
    x, V = jnp.asarray(a["x"]), network.backbone.vocab_size
    log_p = jax.nn.log_softmax(decoded(network, x, jnp.zeros((len(x), 1)), x, 1))
    np.testing.assert_allclose(log_p, a["logits"][..., :V], **TOLERANCE)


def test_network_with_time():
    a, network = reference("backbone_mdlm_dit"), converted(reference("backbone_mdlm_dit_params"))
    out = outputs(network, jnp.asarray(a["x"]), time_of(a["sigma"]))
    V = network.backbone.vocab_size
    np.testing.assert_allclose(out, a["logits"][..., :V], **TOLERANCE)


def test_blocks_in_one_pass_with_their_context(blocks):
    """Where sigma is 0, as in all official runs: else the context has t = 0 here, and sigma there."""
    out = outputs(blocks.network, blocks.z, blocks.t, blocks.x0)
    expected, free = blocks.a["logits"][..., : blocks.V], blocks.a["sigma"] == 0
    np.testing.assert_allclose(out[free], expected[free], **TOLERANCE)
    first = slice(0, blocks.size)  # it has no context, whatever sigma is
    np.testing.assert_allclose(out[:, first], expected[:, first], **TOLERANCE)
    if not free.all():
        assert np.abs(out - expected)[~free].max() > 10 * TOLERANCE["atol"]


def test_blocks_one_after_the_other_with_their_context(blocks):
    """The cache filled at the official sigma: for every sigma the outputs of the one pass."""
    expected = blocks.a["logits"][..., : blocks.V]
    out = decoded(blocks.network, blocks.z, blocks.t, blocks.x0, blocks.size)
    np.testing.assert_allclose(out, expected, **TOLERANCE)


def test_blocks_of_a_sequence_without_context(blocks):
    """As the official sampler calls it: block-causal, each block sees those before it in z itself."""
    expected = blocks.a["logits_sample"][..., : blocks.V]
    np.testing.assert_allclose(outputs(blocks.network, blocks.z, blocks.t), expected, **TOLERANCE)
    assert np.abs(expected - blocks.a["logits"][..., : blocks.V]).max() > 0.01


def test_blocks_of_a_sequence_one_after_the_other(blocks):
    """The same with a cache, filled from z."""
    expected = blocks.a["logits_sample"][..., : blocks.V]
    out = decoded(blocks.network, blocks.z, blocks.t, blocks.z, blocks.size)
    np.testing.assert_allclose(out, expected, **TOLERANCE)
