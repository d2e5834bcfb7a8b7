"""The backbone: who sees whom, equal forms agree, precision, what conditions it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.backbone import num_parameters
from models.classifier import Classifier
from models.layers import near_biases, rotary
from models.transformer import Transformer, _layer

SMALL = Transformer(
    vocab_size=7,
    num_layers=2,
    width=16,
    num_heads=2,
    mlp_ratio=2,
    condition_width=8,
    dtype="float32",
)
B, L = 2, 6


def params_of(model, seed=0):
    """Parameters with no zeros left, since zero-initialised heads and gates hide what is behind them."""
    params = model.init(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def tokens(model, seed=0):
    z = jax.random.randint(jax.random.key(seed), (B, L), 0, model.vocab_size)
    return z, jnp.full((B, 1), 0.4)


def influence(model):
    """(L, L) bool: whether output i of a sequence reacts to input j of it."""
    params, (z, t) = params_of(model), tokens(model)
    simplex = jax.nn.one_hot(z, model.vocab_size)

    def output(x, i):
        return model.apply(params, x, t)[:, i].sum(0) @ jnp.arange(1.0, model.vocab_size + 1)

    grad = jax.jit(jax.grad(output))
    rows = [np.abs(grad(simplex, i)).max((0, 2)) > 1e-6 for i in range(L)]
    return np.array(rows)


@pytest.mark.parametrize("scan", [False, True])
def test_every_output_sees_every_input(scan):
    assert influence(replace(SMALL, scan=scan)).all()


def test_causal_and_block_causal_masks():
    i, j = np.indices((L, L))
    np.testing.assert_array_equal(influence(replace(SMALL, block_length=1)), j <= i)
    np.testing.assert_array_equal(influence(replace(SMALL, block_length=2)), j // 2 <= i // 2)


def test_rows_of_a_batch_do_not_see_each_other():
    model, params = SMALL, params_of(SMALL)
    z, t = tokens(model)
    alone = model.apply(params, z[:1], t[:1])
    np.testing.assert_allclose(model.apply(params, z, t)[:1], alone, atol=1e-5)


def test_token_and_simplex_inputs_agree():
    params, (z, t) = params_of(SMALL), tokens(SMALL)
    simplex = jax.nn.one_hot(z, SMALL.vocab_size)
    np.testing.assert_allclose(
        SMALL.apply(params, z, t), SMALL.apply(params, simplex, t), atol=1e-4
    )


@pytest.mark.representatives("variant0")
@pytest.mark.parametrize(
    "variant",
    [
        dict(mlp="swiglu", qk_norm=True, time_conditioning=True),
        dict(tied=True, attention_bias="near", rotary_base=100.0),
    ],
)
def test_scan_remat_and_attention_forms_agree(variant):
    model = replace(SMALL, **variant)
    params, (z, t) = params_of(model), tokens(model)

    def value_and_grad(model):
        return jax.jit(jax.value_and_grad(lambda p: jnp.sin(model.apply(p, z, t)).sum()))(params)

    expected = value_and_grad(model)
    for changed in [dict(remat=True), dict(scan=True, remat=True), dict(attention="xla")]:
        got = value_and_grad(replace(model, **changed))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


def test_a_layer_is_compiled_once_for_all_calls_outside_of_a_compiled_program():
    model = replace(SMALL, width=24)  # of no other test
    params, (z, t) = params_of(model), tokens(model)
    before = _layer._cache_size()
    first = model.apply(params, z, t)
    assert _layer._cache_size() == before + 1
    np.testing.assert_array_equal(model.apply(params, z, t), first)
    assert _layer._cache_size() == before + 1


def test_dropout_is_the_same_scanned_or_not_and_acts_in_training_only():
    model = replace(SMALL, dropout=0.5)
    params, (z, t) = params_of(model), tokens(model)
    keys = jax.random.split(jax.random.key(0), B)
    dropped = model.apply(params, z, t, dropout_keys=keys)
    scanned = replace(model, scan=True).apply(params, z, t, dropout_keys=keys)
    np.testing.assert_allclose(dropped, scanned, atol=1e-4)
    plain = model.apply(params, z, t)
    assert np.abs(dropped - plain).max() > 0.1
    np.testing.assert_array_equal(plain, replace(model, dropout=0.0).apply(params, z, t))
    one = model.apply(params, z[1:], t[1:], dropout_keys=keys[1:])
    np.testing.assert_allclose(one, dropped[1:], atol=1e-4)


def test_bfloat16_is_close_to_float32_and_logits_stay_float32():
    params, (z, t) = params_of(SMALL), tokens(SMALL)
    exact = SMALL.apply(params, z, t)
    half = replace(SMALL, dtype="bfloat16").apply(params, z, t)
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - exact).max() < 0.06 * np.abs(exact).max()


@pytest.mark.representatives()
def test_gradients_in_bfloat16_are_close_to_those_in_float32():
    """Each array's, of 4096 tokens of which most are the mask, and 1024 rows of two labels: sums over
    them in bfloat16 would lose a fifth of what the mask gets."""
    model = replace(SMALL, num_layers=3, num_labels=2, time_conditioning=True)
    rows, (key_z, key_m, key_t) = 1024, jax.random.split(jax.random.key(0), 3)
    x0 = jax.random.randint(key_z, (rows, 4), 0, model.vocab_size)
    z = jnp.where(jax.random.bernoulli(key_m, 0.7, x0.shape), model.vocab_size, x0)
    t, label = jax.random.uniform(key_t, (rows, 1)), jnp.arange(rows) % 2

    def gradient(dtype):
        def loss(params):
            out = replace(model, dtype=dtype).apply(params, z, t, label=label)
            return -jnp.take_along_axis(jax.nn.log_softmax(out), x0[..., None], -1).mean()

        return jax.jit(jax.grad(loss))(params_of(model))

    exact, half = gradient("float32"), gradient("bfloat16")
    for path, one in jax.tree_util.tree_leaves_with_path(exact):
        other = half
        for key in path:
            other = other[key.key]
        error = jnp.linalg.norm(one - other) / jnp.linalg.norm(one)
        assert 0 < error < (0.012 if path[1].key == "labels" else 0.05), (path, error)


def test_time_conditioning_is_optional_and_acts():
    z, t = tokens(SMALL)
    params = params_of(SMALL)
    np.testing.assert_array_equal(SMALL.apply(params, z, t), SMALL.apply(params, z, t / 2))
    timed = replace(SMALL, time_conditioning=True)
    params = params_of(timed)
    assert np.abs(timed.apply(params, z, t) - timed.apply(params, z, t / 2)).max() > 0.01
    per_position = jnp.broadcast_to(t, (B, L))
    np.testing.assert_allclose(
        timed.apply(params, z, t), timed.apply(params, z, per_position), atol=1e-5
    )


def test_positions_are_relative_and_told_apart():
    params, (z, t) = params_of(SMALL), tokens(SMALL)
    swapped = z.at[:, 0].set(z[:, 1]).at[:, 1].set(z[:, 0])
    out, other = SMALL.apply(params, z, t), SMALL.apply(params, swapped, t)
    assert (z[:, 0] != z[:, 1]).any() and np.abs(out[:, 3] - other[:, 3]).max() > 1e-3


@pytest.mark.parametrize("base", [100.0, 10_000.0])
@pytest.mark.parametrize("causal, back", [(False, [1, -1, 2, -2]), (True, [1, 2, 3, 4])])
def test_near_biases_look_at_a_place_each(base, causal, back):
    """Alone, without anything of the text, the largest score of a head is of its place."""
    q, k, v = near_biases(128, 4, base, causal).reshape(3, 4, 1, 32)
    positions = np.arange(20)
    q, k = (rotary(jnp.broadcast_to(x[None], (1, 4, 20, 32)), positions, base) for x in (q, k))
    scores = (q @ jnp.swapaxes(k, -1, -2))[0, :, 10] / 32**0.5  # of position 10
    assert [10 - int(n) for n in scores.argmax(-1)] == back
    assert (np.sort(scores, axis=-1)[:, -1] - np.sort(scores, axis=-1)[:, -2] > 1.5).all()
    assert not v.any()


def test_biases_of_attention_are_settings():
    for kind, names in (("none", {"kernel"}), ("zero", {"kernel", "bias"})):
        init = Transformer(27, 2, 32, 4, attention_bias=kind).init
        layers = jax.eval_shape(init, jax.random.key(0))["layers"]
        assert layers["attention"]["qkv"].keys() == names
    near = Transformer(27, 2, 32, 4, attention_bias="near").init(jax.random.key(0))
    bias = near["layers"]["attention"]["qkv"]["bias"]
    np.testing.assert_array_equal(bias[1], near_biases(32, 4, 10_000.0, False))


def test_flops_are_those_xla_counts():
    model = replace(SMALL, width=64, num_heads=4, vocab_size=32)
    z, t = jnp.zeros((4, 32), jnp.int32), jnp.ones((4, 1))
    params = model.init(jax.random.key(0))
    cost = jax.jit(model.apply).lower(params, z, t).compile().cost_analysis()
    counted = model.flops_per_token(32) * z.size
    assert counted < cost["flops"] < 1.15 * counted
    assert num_parameters(params) == sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "wrong",
    [
        dict(width=15),
        dict(num_layers=0),
        dict(dropout=1.0),
        dict(block_length=0),
        dict(num_heads=3),
    ],
)
def test_impossible_settings_are_rejected(wrong):
    with pytest.raises(ValueError, match="Transformer"):
        replace(SMALL, **wrong)


def test_what_is_computed_elsewhere_keeps_the_settings_that_are_not_named():
    model = replace(SMALL, attention="xla")
    assert model.for_runtime(attention=None) == model
    assert model.for_runtime() == replace(model, attention="auto")
    assert model.for_runtime(None, "bfloat16", True) == replace(
        model, dtype="bfloat16", remat=True, scan=True
    )


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        (replace(SMALL, vocab_size=None), "Transformer.vocab_size"),
        (Classifier(7, 1, 16, 2), "Classifier.num_labels"),
    ],
)
def test_a_network_names_what_the_data_has_yet_to_fill_in(model, setting):
    with pytest.raises(ValueError, match=f"{setting} = None is filled in when the data is read"):
        model.init(jax.random.key(0))
    assert (model.flops_per_token(8) is None) == (model.vocab_size is None)
