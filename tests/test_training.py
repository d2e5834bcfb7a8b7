"""The compiled step: accumulation, devices, stratified times, EMA, schedule of the rate."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs.smoke import get_config
from diffusion.mdlm import MDLM
from experiments.data.tokenizers import Letters27
from experiments.evaluation.bound import spread
from experiments.evaluation.units import Estimate
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_constant import WarmupConstant
from experiments.optimization.warmup_cosine import WarmupCosine
from experiments.overrides import override, resolve
from experiments.training.train_step import init_state, make_train_step
from models.roles import Matrix, Vector


def experiment(*settings):
    return resolve(override(get_config(), settings), Letters27())


def batch(e, seed=0):
    shape = (e.train.accumulation, e.train.batch_size // e.train.accumulation, e.data.length)
    whole = np.random.default_rng(seed).integers(0, 27, (e.train.batch_size, e.data.length))
    return jnp.asarray(whole.reshape(shape), jnp.int32)


def run(e, steps=3):
    state, step = init_state(e), jax.jit(make_train_step(e))
    losses = []
    for n in range(steps):
        state, loss = step(state, batch(e, n))
        losses.append(float(loss))
    return state, losses


def test_accumulation_changes_nothing_but_memory():
    whole, losses = run(experiment())
    parts, same = run(experiment("train.accumulation=4"))
    np.testing.assert_allclose(losses, same, rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves(whole["params"]), jax.tree.leaves(parts["params"]), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_times_are_stratified_over_the_global_batch():
    seen = []

    class Spy(MDLM):
        def loss(self, key, model, x0, u):
            jax.debug.callback(lambda u: seen.append(np.asarray(u)), u)
            return jnp.zeros(x0.shape) + 0 * model(x0, u).sum()

    for accumulation in (1, 4):
        seen.clear()
        e = experiment(f"train.accumulation={accumulation}")
        e = dataclasses.replace(e, process=Spy(e.process.vocab_size))
        jax.block_until_ready(make_train_step(e)(init_state(e), batch(e)))
        u = np.sort(np.concatenate([s.ravel() for s in seen]))
        np.testing.assert_array_equal(
            np.floor(u * e.train.batch_size), np.arange(e.train.batch_size)
        )


def test_the_objective_is_told_how_many_steps_came_before():
    seen = []

    class Told(MDLM):
        def at_step(self, step):
            jax.debug.callback(lambda step: seen.append(int(step)), step)
            return self

    e = experiment("model.num_layers=1")
    run(dataclasses.replace(e, process=Told(e.process.vocab_size)))
    jax.effects_barrier()
    assert seen == [0, 1, 2]


def test_ema_is_the_average_with_warm_up_in_float32():
    e = experiment("train.ema_decay=0.5")
    state, step = init_state(e), jax.jit(make_train_step(e))
    expected = np.asarray(state["params"]["ends"]["embedding"], np.float64)
    for n in range(1, 5):
        state, _ = step(state, batch(e, n))
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * np.asarray(state["params"]["ends"]["embedding"])
    assert state["ema"]["ends"]["embedding"].dtype == jnp.float32
    np.testing.assert_allclose(state["ema"]["ends"]["embedding"], expected, atol=1e-6)


def test_rate_rises_then_falls_to_its_end():
    rate = WarmupCosine(peak_lr=1.0, warmup_steps=4, decay_steps=104, final_lr=0.1).build()
    np.testing.assert_allclose([rate(n) for n in range(4)], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    np.testing.assert_allclose(
        [rate(4), rate(54), rate(104), rate(999)], [1, 0.55, 0.1, 0.1], rtol=1e-5
    )
    constant = WarmupConstant(peak_lr=1.0, warmup_steps=1).build()
    np.testing.assert_allclose([constant(0), constant(1), constant(999)], 1)


def test_gradients_are_clipped_and_decay_spares_all_but_matrices():
    params = {"norm": {"scale": jnp.ones(3)}, "up": {"kernel": jnp.ones((3, 3))}}
    roles = {"norm": {"scale": Vector()}, "up": {"kernel": Matrix()}}
    config = AdamW(WarmupConstant(peak_lr=0.1, warmup_steps=0), weight_decay=0.5)
    optimizer = config.build(params, roles)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["norm"]["scale"], 0)
    np.testing.assert_allclose(updates["up"]["kernel"], -0.05)
    clip = optax.clip_by_global_norm(1.0)
    huge = jax.tree.map(lambda x: 1e6 * x, params)
    _, state = optimizer.update(huge, optimizer.init(params), params)
    clipped, _ = clip.update(huge, clip.init(params))
    moments = optax.tree_utils.tree_get(state, "mu")
    for m, g in zip(jax.tree.leaves(moments), jax.tree.leaves(clipped), strict=True):
        np.testing.assert_allclose(m, 0.1 * g, rtol=1e-5)


def test_units_and_standard_errors():
    rng = np.random.default_rng(0)
    nats = rng.normal(20, 4, (500, 1)) + rng.normal(0, 2, (500, 4))
    e = Estimate(nats, np.full(500, 10), 5000)
    np.testing.assert_allclose(e.nats_per_token, nats.mean() / 10)
    np.testing.assert_allclose(e.bits_per_character, nats.mean() / 10 / np.log(2))
    np.testing.assert_allclose(
        e.standard_error(), nats.mean(1).std(ddof=1) / np.sqrt(500) / 10, rtol=1e-3
    )
    np.testing.assert_allclose(e.time_standard_error(), 2 / np.sqrt(4 * 500) / 10, rtol=0.1)
    assert np.isnan(Estimate(nats[:1, :1], np.array([10]), 10).standard_error())


def test_spread_takes_whole_sequences_over_the_split():
    tokens = np.arange(105)
    chosen = spread(tokens, 10, 3).reshape(3, 10)
    assert (chosen[:, 0] % 10 == 0).all() and chosen[0, 0] == 0 and chosen[-1, 0] == 90
    np.testing.assert_array_equal(spread(tokens, 10, 99), tokens)
