"""The maximal update parametrisation: what an update changes does not depend on the width."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.optimization.adamw import AdamW
from experiments.optimization.muon import Muon
from experiments.optimization.warmup_constant import WarmupConstant
from models.roles import Matrix, Table, Vector
from models.transformer import Transformer

BASE, STEPS, TOKENS = 32, 5, 27
RATE = WarmupConstant(2e-3, 0)
OPTIMISERS = {"AdamW": AdamW(RATE, beta2=0.95), "Muon": Muon(RATE, beta2=0.95)}


def network(width, base_width, **settings):
    """Of heads of 16 channels."""
    return Transformer(TOKENS, 1, width, width // 16, base_width=base_width, **settings)


@cache
def changes(optimiser, width, base_width):
    """The root mean square of what some updates change of (logits, features) of a fixed text; of the
    features what the layers alone change."""
    model, rng = network(width, base_width), np.random.default_rng(0)
    text = jnp.asarray(rng.zipf(1.5, (8, 16)) % TOKENS)
    z = jnp.where(jnp.asarray(rng.uniform(size=text.shape) < 0.5), TOKENS, text)
    t = jnp.full((8, 1), 0.5)
    update = OPTIMISERS[optimiser].build(
        jax.eval_shape(model.init, jax.random.key(0)), model.roles()
    )

    def loss(params):
        log_p = jax.nn.log_softmax(model.apply(params, z, t))
        return -jnp.take_along_axis(log_p, text[..., None], -1).mean()

    @jax.jit
    def step(params, state):
        moved, state = update.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, moved), state

    @jax.jit
    def measured(before, after):
        mixed = {"ends": before["ends"], "layers": after["layers"]}
        logits = model.apply(after, z, t) - model.apply(before, z, t)
        features = model.features(mixed, z, t) - model.features(before, z, t)
        return jnp.stack([jnp.sqrt(jnp.mean(x**2)) for x in (logits, features)])

    before = params = jax.jit(model.init)(jax.random.key(0))
    state = jax.jit(update.init)(params)
    for _ in range(STEPS):
        params, state = step(params, state)
    return np.asarray(measured(before, params))


@pytest.mark.representatives("Muon")
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_with_a_base_width_updates_change_activations_alike_at_any_width(optimiser):
    small = changes(optimiser, BASE, BASE)
    np.testing.assert_allclose(changes(optimiser, 8 * BASE, BASE), small, rtol=0.2)
    grown = changes(optimiser, 8 * BASE, None) / small  # and not without
    assert grown[0] > 5 and grown[1] > 1.8


def rates(model):
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): role.rate
        for path, role in jax.tree_util.tree_leaves_with_path(model.roles())
        if isinstance(role, Matrix)
    }


def test_the_matrices_that_read_activations_have_the_rate_of_their_width_and_no_others():
    model = network(4 * BASE, BASE, time_conditioning=True, vector_width=8)
    slow = {name for name, rate in rates(model).items() if rate == 0.25}
    inner = {"attention.qkv", "attention.out", "mlp.up", "mlp.down"}
    assert slow == {f"layers.{name}.kernel" for name in inner} | {"ends.head.kernel"}
    others = {rate for name, rate in rates(model).items() if name not in slow}
    assert others == {1.0}
    assert set(rates(replace(model, base_width=None)).values()) == {1.0}


@pytest.mark.parametrize("optimiser", [AdamW, Muon])
def test_weight_decay_does_not_depend_on_the_base_width(optimiser):
    """Without gradients an update is the decay alone."""
    update = {}
    for rate in (1.0, 0.25):
        roles = {"up": Matrix(rate=rate), "head": Matrix(hidden=False, rate=rate), "bias": Vector()}
        roles |= {"table": Table(), "time": Matrix(hidden=False)}
        params = {name: jnp.ones((4, 8)) for name in roles}
        built = optimiser(RATE, weight_decay=0.1).build(params, roles)
        update[rate], _ = built.update(
            jax.tree.map(jnp.zeros_like, params), built.init(params), params
        )
    for name, value in update[1.0].items():
        np.testing.assert_allclose(update[0.25][name], value, rtol=1e-6)
    assert float(update[1.0]["up"][0, 0]) == pytest.approx(-2e-3 * 0.1)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_at_the_base_width_the_optimiser_is_that_of_no_base_width(optimiser):
    states = []
    for base_width in (None, BASE):
        model = network(BASE, base_width)
        params = jax.eval_shape(model.init, jax.random.key(0))
        update = OPTIMISERS[optimiser].build(params, model.roles())
        states.append(jax.tree.structure(jax.eval_shape(update.init, params)))
    assert states[0] == states[1]


def test_a_base_width_needs_a_head_of_its_own_and_is_a_width():
    with pytest.raises(ValueError, match="base_width = 32 needs a head of its own"):
        network(BASE, BASE, tied=True)
    with pytest.raises(ValueError, match="base_width = 0 must be at least 1, or None"):
        network(BASE, 0)
