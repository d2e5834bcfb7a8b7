"""Losses of a large vocabulary are computed where tokens are masked alone, and are the same."""

import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import on_devices

from diffusion.any_order import AnyOrder
from diffusion.betas import ReciprocalBetas
from diffusion.block import BlockDiffusion
from diffusion.d3pm import D3PM
from diffusion.genmd4 import GenMD4
from diffusion.gidd import GIDD
from diffusion.kernels import Absorbing, Uniform
from diffusion.mdlm import MDLM
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM
from models.backbone import Network
from models.positions import apply_where
from models.transformer import Transformer
from samplers.first_hitting import FirstHitting

V, L, B = 4500, 48, 12
PROCESSES = {
    "mdlm": MDLM(V),
    "sedd": SEDD(V, Absorbing()),
    "sedd uniform": SEDD(V, Uniform()),
    "genmd4": GenMD4(V),
    "d3pm": D3PM(V, Absorbing(), ReciprocalBetas(), num_steps=20),
    "udlm": UDLM(V),
    "gidd": GIDD(V),
    "blocks": BlockDiffusion(MDLM(V), block_length=8),
}


def network(process, **settings):
    model = Transformer(V, 1, 16, 2, **settings).for_process(process.traits.attention_block, None)
    params = model.init(jax.random.key(0))
    noise = jax.random.normal(jax.random.key(1), params["ends"]["head"]["kernel"].shape)
    params["ends"]["head"]["kernel"] = noise
    return model, params


def losses(process, model, params, x0, name="loss"):
    keys = jax.random.split(jax.random.key(3), len(x0))
    u = (jnp.arange(len(x0)) + 0.5)[:, None] / len(x0)

    @jax.jit
    def both(params, own):
        def total(params, own):
            bound = process.bind(own) if own else process
            nats = bound.loss(keys, Network(model, params), x0, u)
            return (nats * jnp.arange(1, L + 1)[None] / L).sum(), nats

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(params, own)

    (_, nats), gradients = both(params, process.init(jax.random.key(0)))
    return nats, gradients


@pytest.mark.representatives("gidd", "blocks")
@pytest.mark.parametrize("name", PROCESSES)
def test_losses_and_gradients_are_those_of_the_whole_head(name):
    process = PROCESSES[name]
    chunked = True if name in ("udlm", "sedd uniform", "gidd") else None
    model, params = network(process)
    x0 = jax.random.randint(jax.random.key(2), (B, L), 0, V)
    nats, gradients = losses(process, replace(model, chunked_head=chunked), params, x0)
    whole, expected = losses(process, replace(model, chunked_head=False), params, x0)
    np.testing.assert_allclose(nats, whole, rtol=1e-6, atol=1e-6 * float(np.abs(whole).max()))
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * float(np.abs(b).max() + 1e-9), rtol=1e-5)


def test_gradients_are_finite_where_all_is_masked_and_the_last_chunk_is_filled_up():
    """576 positions in chunks of 256: what fills the last one up must not be at t = 0."""
    model, params = network(MDLM(V))
    x0 = jax.random.randint(jax.random.key(2), (B, L), 0, V)
    z, t = jnp.full((B, L), V), jnp.full((B, 1), 0.7)

    def gradients(chunked):
        chosen = replace(model, chunked_head=chunked)
        loss = lambda p: MDLM(V).loss_of(Network(chosen, p), x0, z, t).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    found, expected = jax.tree.leaves(gradients(None)), jax.tree.leaves(gradients(False))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * float(np.abs(b).max() + 1e-9))


@pytest.mark.parametrize("rows", [1, B])
def test_no_position_is_dropped_however_many_are_masked(rows):
    model, params = network(MDLM(V))
    x0 = jax.random.randint(jax.random.key(2), (rows, L), 0, V)
    t = jnp.linspace(0.1, 0.9, rows)[:, None]

    @jax.jit
    def both(params, z):
        chosen = (replace(model, chunked_head=chunked) for chunked in (None, False))
        return [MDLM(V).loss_of(Network(one, params), x0, z, t) for one in chosen]

    for share in (0.0, 0.01, 1.0):
        z = jnp.where(jax.random.uniform(jax.random.key(5), x0.shape) < share, V, x0)
        found, expected = both(params, z)
        np.testing.assert_allclose(found, expected, rtol=2e-5)
        assert ((found > 0) == (z == V)).all()


def test_a_chunk_without_masked_tokens_is_not_computed():
    """The head counts its calls: of 8 chunks, as many as hold a masked token."""
    calls = []

    def function(x, z):
        jax.debug.callback(lambda: calls.append(1))
        return x.sum(-1)

    z = jnp.arange(2048).reshape(16, 128)
    x = jnp.ones((16, 128, 4))
    for masked, chunks in ((0, 0), (1, 1), (256, 1), (257, 2), (2048, 8)):
        calls.clear()
        found = jax.jit(lambda w: apply_where(function, x, w, (z,)))(z % 2048 < masked)
        jax.effects_barrier()
        assert (len(calls), float(found.sum())) == (chunks, 4 * masked)


def test_the_any_order_bound_is_that_of_the_whole_head():
    model, params = network(MDLM(V))
    x0 = jax.random.randint(jax.random.key(2), (B, L), 0, V)
    u = (jnp.arange(B)[:, None] + 0.5) / B

    def nats(chunked):
        chosen, key = replace(model, chunked_head=chunked), jax.random.key(1)
        bound = AnyOrder(MDLM(V))
        terms = jax.jit(lambda p, x0: bound.bound_terms(key, Network(chosen, p), x0, u))(params, x0)
        return terms["any order"]

    np.testing.assert_allclose(nats(None), nats(False), rtol=2e-5)


def test_training_makes_no_array_of_all_logits():
    model, params = network(MDLM(V))
    x0 = jnp.zeros((64, 64), jnp.int32)
    u = jnp.full((64, 1), 0.5)

    def temporaries(chunked):
        def loss(params):
            net = Network(replace(model, chunked_head=chunked), params)
            return MDLM(V).loss(jax.random.key(0), net, x0, u).mean()

        return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes

    logits = 64 * 64 * V * 4
    assert temporaries(False) > 2 * logits
    assert temporaries(None) < 0.5 * logits


MESH = """
import jax, jax.numpy as jnp, numpy as np
from dataclasses import replace
from experiments.config import Experiment, Mesh, Train
from experiments.data.text import Text
from experiments.devices.sharding import make_mesh, tree_shardings
from experiments.training.train_step import init_state, make_train_step
from diffusion.mdlm import MDLM
from models.transformer import Transformer
from samplers.first_hitting import FirstHitting

x0 = jax.random.randint(jax.random.key(2), (1, 16, 32), 0, 4500)
found = []
for sizes, chunked in (((1, 1, 1), False), ((2, 2, 1), None), ((1, 2, 2), None)):
    model = Transformer(4500, 1, 16, 2, chunked_head=chunked)
    experiment = Experiment(MDLM(4500), model, Text(length=32), train=Train(batch_size=16))
    mesh = make_mesh(Mesh(*sizes)) if sizes != (1, 1, 1) else None
    state = init_state(experiment)
    head = state["params"]["ends"]["head"]
    head["kernel"] = jax.random.normal(jax.random.key(1), head["kernel"].shape)
    if mesh is not None:
        state = jax.device_put(state, tree_shardings(mesh, state, experiment.roles()))
    new, loss = jax.jit(make_train_step(experiment, mesh))(state, x0)
    found.append((float(loss), jax.device_get(new["totals"]["grad_norm"])))
for other in found[1:]:
    np.testing.assert_allclose(found[0], other, rtol=2e-6)
print("equal")
"""


@pytest.mark.representatives()
def test_meshes_compute_the_same():
    done = subprocess.run(
        [sys.executable, "-c", MESH], env=on_devices(4), capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


def test_samples_are_those_of_the_whole_head():
    """FirstHitting draws where something is revealed alone: the same tokens."""
    model, params = network(MDLM(V))

    def sample(chunked):
        chosen, key = replace(model, chunked_head=chunked), jax.random.key(4)
        run = FirstHitting(steps=6).run
        return jax.jit(lambda p: run(key, MDLM(V), Network(chosen, p), (B, L)).x0)(params)

    np.testing.assert_array_equal(sample(None), sample(False))
