"""Networks in the form of published ones: the same numbers on a mesh, in blocks, packed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN, on_devices

from experiments.published.opening import open_checkpoint

FIXTURES = ("llada", "dream", "mdlm", "gpt2")


def network(name, **changes):
    """(the backbone of a fixture, its parameters)."""
    checkpoint = open_checkpoint(GOLDEN / "checkpoints" / name)
    return replace(checkpoint.architecture.model, **changes), checkpoint.params()


def tokens(model, rows, length, seed=0):
    """States with masks among the tokens, int (rows, length)."""
    return np.random.default_rng(seed).integers(0, model.vocab_size + 1, (rows, length))


MESH = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from test_published_forms import network, tokens
from experiments.config import Mesh
from experiments.devices.sharding import global_batch, make_mesh, tree_shardings
from models.layers import use_mesh

def program(model, mesh):
    @jax.jit
    @use_mesh(mesh)
    def logits(params, z, weights):
        def loss(params):
            out = model.apply(params, z, jnp.zeros((len(z), 1)))
            return jnp.sum(out * weights), out
        (_, out), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return out, gradient
    return logits

def apart(a, b):
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))

mesh = make_mesh(Mesh(2, 2, 2))
saving = dict(remat=True, scan=True)
for name in sys.argv[1:]:
    plain, params = network(name, dtype="float32")
    z = tokens(plain, 8, 8)
    weights = np.random.default_rng(1).normal(size=(8, 8, plain.vocab_size)).astype(np.float32)
    out, gradient = program(plain, None)(params, z, weights)
    placed = jax.device_put(params, tree_shardings(mesh, params, plain.roles()))
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(placed))
    found = {"share": held / sum(x.nbytes for x in jax.tree.leaves(placed))}
    for dtype in ("float32", "bfloat16"):
        model, _ = network(name, dtype=dtype, **saving)
        batch = (global_batch(mesh, x, axis=0) for x in (z, weights))
        found[dtype], gradients = program(model, mesh)(placed, *batch)
        found[dtype] = apart(found[dtype], out)
        pairs = zip(*map(jax.tree.leaves, (gradients, gradient)), strict=True)
        found[f"{dtype} gradient"] = max(apart(a, b) for a, b in pairs)
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def on_mesh():
    """{fixture: how far from one device 2 x 2 x 2 are, with scan and remat}."""
    here = Path(__file__).parent
    path = {"PYTHONPATH": f"{here}:{here.parent}"}
    done = subprocess.run(
        [sys.executable, "-c", MESH, *FIXTURES],
        env=on_devices(8) | path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(FIXTURES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.representatives()
@pytest.mark.parametrize("name", FIXTURES)
def test_eight_devices_give_the_logits_of_one_with_scan_and_remat(name, on_mesh):
    assert on_mesh[name]["share"] < 0.5
    assert on_mesh[name]["float32"] < 3e-6
    assert on_mesh[name]["float32 gradient"] < 3e-5


@pytest.mark.representatives()
@pytest.mark.parametrize("name", FIXTURES)
def test_bfloat16_stays_near_float32(name, on_mesh):
    assert 1e-4 < on_mesh[name]["bfloat16"] < 0.02


@pytest.mark.parametrize("name", FIXTURES)
def test_a_block_decoded_after_cached_ones_is_that_with_their_text_as_context(name):
    """Grouped keys, learned positions and a constant condition too; a shifted network has no blocks."""
    block, length = 2, 8
    model, params = network(name, block_length=block, shifted=False)
    clean = tokens(model, 2, length) % model.vocab_size
    z, t = tokens(model, 2, length, seed=1), jnp.ones((2, 1))
    whole = jax.jit(model.apply)(params, z, t, context=clean)
    decode = jax.jit(model.decode)
    cache = model.cache(2, length)
    for start in range(0, length, block):
        part = slice(start, start + block)
        out, _ = decode(params, z[:, part], t, cache, start)
        np.testing.assert_allclose(out, whole[:, part], rtol=1e-4, atol=1e-5)
        _, cache = decode(params, clean[:, part], jnp.zeros((2, 1)), cache, start)


@pytest.mark.representatives("llada", "gpt2")
@pytest.mark.parametrize("name", FIXTURES)
def test_texts_packed_into_a_row_are_as_alone(name):
    """Learned positions begin anew in each, and the outputs of a shifted network stay in theirs."""
    model, params = network(name)
    z, t = tokens(model, 2, 8), jnp.ones((2, 1))
    packed = model.apply(params, z, t, segments=np.array([[0, 0, 0, 1, 1, 1, 1, 2]] * 2))
    for part in (slice(0, 3), slice(3, 7), slice(7, 8)):
        alone = model.apply(params, z[:, part], t)
        np.testing.assert_allclose(packed[:, part], alone, rtol=1e-4, atol=1e-5)
