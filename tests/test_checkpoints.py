"""Checkpoints: bit for bit, kept or deleted as asked."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_states import abstract, assert_same, make_state, one_line, python, saved, snapshot

from experiments.training import digests
from experiments.training.checkpoint_record import RECORD
from experiments.training.checkpoints import Checkpoints
from experiments.training.digests import digest

# The digest


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "uint32", "bool"])
def test_digest_changes_with_any_single_bit(dtype):
    rng = np.random.default_rng(0)
    base = np.asarray(jnp.asarray(rng.integers(0, 2, (7, 9)), dtype))
    whole = digest({"x": jnp.asarray(base)})
    for flip in range(150):
        raw = base.copy().reshape(-1).view(np.uint8)
        at = rng.integers(raw.size)
        raw[at] ^= 1 if dtype == "bool" else 1 << (flip % 8)
        changed = jnp.asarray(raw.view(base.dtype).reshape(base.shape))
        assert digest({"x": changed}) != whole


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "uint16", "bool", "float64"])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4, 2), (0, 3)])
def test_digest_of_what_is_fetched_is_that_of_what_is_not(dtype, shape, monkeypatch):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=shape) * 50).astype(dtype)
        monkeypatch.setattr(digests, "BLOCK", 7)
        fetched = digest({"x": x}), digest({"x": np.asarray(x)})
        monkeypatch.setattr(digests, "ON_HOST", -1)
        assert fetched == (digest({"x": x}),) * 2


def test_digest_tells_shape_dtype_order_and_zeros_apart():
    x = jnp.arange(6, dtype=jnp.float32)
    variants = [
        x,
        x[::-1],
        x.reshape(2, 3),
        x.reshape(3, 2),
        jax.lax.bitcast_convert_type(x, jnp.int32),
        jnp.zeros(6),
        jnp.zeros(7),
        -jnp.zeros(6),
    ]
    assert len({digest({"x": v})["x"] for v in variants}) == len(variants)


def test_digest_covers_random_keys_scalars_and_64_bits():
    with jax.enable_x64(True):
        one = jnp.ones((3,), jnp.float64)
        assert digest([one]) != digest([one.at[0].add(2.0**-52)])
        assert digest([one]) != digest([-one])
    assert digest([jax.random.key(1)]) != digest([jax.random.key(2)])
    assert digest({"a": {"b": jnp.int32(1)}}).keys() == {"a/b"}


# Saving and loading


def test_roundtrip_is_bit_for_bit(tmp_path):
    checkpoints = saved(tmp_path)
    state = make_state(1)
    assert_same(checkpoints.restore(1, abstract(state)), state)
    assert checkpoints.meta(1) == {"position": 1}


def test_keeps_the_last_and_the_best(tmp_path):
    with Checkpoints(tmp_path, keep_last=2, keep_best=1) as checkpoints:
        metrics = {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: float("nan"), 6: 4.0}
        for step, metric in metrics.items():
            checkpoints.save(step, make_state(step), {"position": step}, metric)
    assert checkpoints.steps() == [2, 5, 6]
    assert checkpoints.latest() == 6 and checkpoints.best() == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "5", "6"]
    assert_same(checkpoints.restore(2, abstract(make_state())), make_state(2))


def test_saving_a_complete_step_again_changes_nothing(tmp_path):
    checkpoints = saved(tmp_path)
    before = snapshot(tmp_path)
    checkpoints.save(1, make_state(5), {"position": 5})
    checkpoints.wait()
    assert snapshot(tmp_path) == before


def test_a_folder_without_a_record_is_a_damaged_step_and_not_written_over(tmp_path):
    checkpoints = saved(tmp_path, steps=(1, 2, 3), keep_last=2)
    (tmp_path / "3" / RECORD).unlink()
    before = snapshot(tmp_path)
    assert checkpoints.steps() == [2, 3] and checkpoints.latest() == 3
    for act in (checkpoints.meta, partial(checkpoints.save, state=make_state(), meta={})):
        with one_line() as caught:
            act(3)
        assert f"3 is damaged: {RECORD} is gone; other steps: 2" in str(caught.value)
    assert snapshot(tmp_path) == before and checkpoints.intact("ema") == [2]
    checkpoints.save(4, make_state(4), {})
    checkpoints.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3.damaged", "4"]


def test_partial_restore_is_exact_and_leaves_the_rest_unread(tmp_path):
    state = {"ema": jnp.arange(1000.0), "ema2": jnp.ones(3), "opt_state": {}}
    rng = np.random.default_rng(0)
    state["opt_state"] = {"mu": jnp.asarray(rng.normal(size=(8 << 20,)), jnp.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})

    def read():
        with open("/proc/self/io") as file:
            return int(file.readline().split()[1])

    before = read()
    loaded = checkpoints.restore_partial(1, "ema", abstract(state["ema"]))
    assert read() - before < 4 << 20  # of 32 MiB
    assert_same(loaded, state["ema"])


def test_arrays_may_be_donated_right_after_save(tmp_path):
    @partial(jax.jit, donate_argnums=0)
    def train_step(state):
        return jax.tree.map(lambda x: x * 3 + 1, state)

    make = jax.jit(lambda: {"x": jnp.linspace(0.0, 1.0, 8 << 20)})
    state, expected = make(), np.asarray(make()["x"]).copy()
    like = abstract(state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(5):
            state = train_step(state)
        jax.block_until_ready(state)
    np.testing.assert_array_equal(checkpoints.restore(1, like)["x"], expected)


MESH = """
def sharded(shape):
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.{kind},) * 2)
    return NamedSharding(mesh, PartitionSpec("data", "model"))
x = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
before = {{"w": jax.device_put(x, sharded((4, 2)))}}
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, before, {{}})
like = {{"w": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharded((2, 4)))}}
after = checkpoints.restore(1, like)
assert after["w"].sharding == like["w"].sharding
np.testing.assert_array_equal(after["w"], x)
assert digest(before) == digest(after) == digest({{"w": jnp.asarray(x)}})
print(digest(after)["w"])
"""


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_loads_on_another_mesh_with_the_same_digest(tmp_path, kind):
    done = python(MESH.format(kind=kind), tmp_path, devices=8)
    assert done.returncode == 0, done.stderr
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), jnp.float32)
    assert digest({"w": x})["w"] == done.stdout.strip()
    assert_same(Checkpoints(tmp_path).restore(1, abstract({"w": x})), {"w": x})
