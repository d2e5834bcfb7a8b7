"""Checkpoints: bit-for-bit, kept or deleted as asked, and damage told in one line."""

import logging
import os
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import on_devices

from experiments.errors import UserError, shortened
from experiments.training.checkpoint_record import RECORD
from experiments.training.checkpoints import Checkpoints
from experiments.training.digests import digest

STATE = """
import os, sys
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from experiments.training.checkpoints import Checkpoints
from experiments.training.digests import digest
"""


def make_state(seed=0, width=64):
    """{params, ema, opt_state, step, key} with a bf16 leaf and adamw moments that are not zero."""
    rng = np.random.default_rng(seed)
    params = {
        "layers": {"kernel": jnp.asarray(rng.normal(size=(32, width)), jnp.float32)},
        "bias": jnp.asarray(rng.normal(size=(width,)), jnp.bfloat16),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    _, opt_state = optimizer.update(params, optimizer.init(params), params)
    ema = jax.tree.map(lambda x: x * 2, params)
    step = jnp.int32(7 + seed)
    return {"params": params, "ema": ema, "opt_state": opt_state, "step": step}


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def saved(directory, steps=(1,), **options):
    """The checkpoints of make_state(step) at each step, all written."""
    with Checkpoints(directory, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"position": step})
    return checkpoints


@contextmanager
def one_line():
    with pytest.raises(UserError) as caught:
        yield caught
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def files(directory):
    return sorted(p for p in directory.rglob("*") if p.is_file())


def snapshot(directory):
    return {p: (p.read_bytes() if p.is_file() else None) for p in sorted(directory.rglob("*"))}


def python(code, *args, devices=1, **options):
    """The finished process that ran the code, with that many virtual CPU devices."""
    command = [sys.executable, "-c", STATE + code, *map(str, args)]
    return subprocess.run(
        command, env=on_devices(devices), capture_output=True, text=True, **options
    )


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


# Mistakes and damage


def test_flipped_byte_in_any_file_is_detected_or_harmless(tmp_path, capfd):
    checkpoints = saved(tmp_path, steps=(1, 2))
    state, rng, detected = make_state(2), np.random.default_rng(0), 0
    biggest = max(files(tmp_path / "2"), key=lambda p: p.stat().st_size)
    for path in [*files(tmp_path / "2"), *[biggest] * 20]:
        raw = path.read_bytes()
        if not raw:
            continue
        at = int(rng.integers(len(raw)))
        path.write_bytes(raw[:at] + bytes([raw[at] ^ (1 << rng.integers(8))]) + raw[at + 1 :])
        try:
            assert_same(checkpoints.restore(2, abstract(state)), state)
        except UserError as error:
            assert "\n" not in str(error) and "other steps: 1" in str(error)
            detected += 1
        path.write_bytes(raw)
    assert detected >= 20
    assert_same(checkpoints.restore(2, abstract(state)), state)
    assert capfd.readouterr().err == ""


def test_flipped_data_byte_names_the_array(tmp_path):
    state = {"good": jnp.ones(3), "noise": jax.random.bits(jax.random.key(0), (1 << 18,))}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
    biggest = max(files(tmp_path), key=lambda p: p.stat().st_size)
    raw = bytearray(biggest.read_bytes())
    raw[len(raw) // 2] ^= 16
    biggest.write_bytes(raw)
    with one_line() as caught:
        checkpoints.restore(1, abstract(state))
    assert "noise" in str(caught.value) and "good" not in str(caught.value)
    with one_line():
        checkpoints.restore_partial(1, "noise", abstract(state["noise"]))


ARRAY = "(params|ema|opt_state|step)[a-z0-9_/]*"


@pytest.mark.parametrize(
    "name, truncated, missing",
    [
        # Of the files of arrays tensorstore names what it wanted from them.
        ("state/ocdbt*/d/*", f"{ARRAY}: .*byte", f"{ARRAY}: Existing shard has size of 0 bytes"),
        ("state/d/*", "state/d/[0-9a-f]*: Requested byte", "state/d/[0-9a-f]*: not found;"),
        ("state/manifest.ocdbt", "state/manifest.ocdbt: Error dec", f"{ARRAY}: does not exist;"),
        ("state/_METADATA", "it: JSONDecodeError", r"it: FileNotFoundError: .* exist at state\.;"),
    ],
    ids=["arrays", "index", "manifest", "metadata"],
)
def test_truncated_or_missing_file_is_one_line_that_says_what(
    tmp_path, name, truncated, missing, capfd
):
    checkpoints = saved(tmp_path)
    (path,) = (tmp_path / "1").glob(name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with one_line() as caught:
        checkpoints.restore(1, abstract(make_state()))
    assert re.search(f"1 is damaged: (orbax )?cannot read {truncated}", str(caught.value))
    path.unlink()
    with one_line() as caught:
        checkpoints.restore(1, abstract(make_state()))
    assert re.search(f"1 is damaged: (orbax )?cannot read {missing}", str(caught.value))
    assert capfd.readouterr().err == ""


def test_what_a_library_says_at_length_keeps_its_beginning_and_its_end():
    assert shortened("a\n b") == "a b"
    said = shortened("Error: " + "in a layer: " * 50 + "disk full")
    assert len(said) == 150 and said.startswith("Error: in a") and said.endswith("disk full")
    assert said.count(" ... ") == 1


def test_state_that_does_not_fit_is_rejected(tmp_path):
    checkpoints = saved(tmp_path)
    like = abstract(make_state())
    cast = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float16)  # noqa: E731
    wider = {**like, "ema": abstract(make_state(width=65)["ema"])}
    without = {k: v for k, v in like.items() if k != "ema"}
    extra = {**like, "extra": like["step"]}
    for wrong, word in [
        (wider, "[32, 65]"),
        ({**like, "params": jax.tree.map(cast, like["params"])}, "float16"),
        (without, "only in the checkpoint: ema/bias"),
        (extra, "only in the model: extra"),
    ]:
        with one_line() as caught:
            checkpoints.restore(1, wrong)
        assert word in str(caught.value)
    with one_line():
        checkpoints.restore_partial(1, "nothing", like["ema"])


def test_missing_step_or_directory_is_told_and_not_created(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.steps() == [] and checkpoints.latest() is None and checkpoints.best() is None
    with one_line():
        checkpoints.restore(1, {})
    checkpoints.close()
    assert not (tmp_path / "none").exists()
    with one_line() as caught:
        saved(tmp_path / "some", steps=(3,)).meta(4)
    assert "other steps: 3" in str(caught.value)


def test_reading_writes_and_deletes_nothing(tmp_path):
    saved(tmp_path, steps=(1, 2, 3), keep_last=3)
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
    before = snapshot(tmp_path)
    for path in [tmp_path, *tmp_path.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        assert checkpoints.steps() == [1, 2, 3] and checkpoints.latest() == 3
        checkpoints.restore(3, abstract(make_state()))
        checkpoints.restore_partial(3, "ema", abstract(make_state()["ema"]))
    assert snapshot(tmp_path) == before
    for path in [tmp_path, *tmp_path.rglob("*")]:
        path.chmod(0o755)


def test_meta_that_is_not_json_is_rejected(tmp_path):
    for meta in [{"x": object()}, {"x": float("nan")}, {1: 2}, {"x": (1, 2)}]:
        with one_line():
            Checkpoints(tmp_path).save(1, make_state(), meta)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_surfaces_once_and_spares_the_older_step(tmp_path, capfd):
    big = {"x": jax.random.bits(jax.random.key(0), (1 << 20,))}
    checkpoints = saved(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # as on a full disk
    try:
        with one_line():
            checkpoints.save(2, big, {})
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints.steps() == [1]
    assert_same(checkpoints.restore(1, abstract(make_state())), make_state(1))
    checkpoints.save(2, big, {})
    checkpoints.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]
    assert capfd.readouterr().err == ""


def test_what_fails_amid_training_is_told_by_the_next_call_alone(tmp_path, capfd, caplog):
    """Orbax's threads fail while nobody waits for them."""
    checkpoints = saved(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # as on a full disk
    try:
        big = jax.random.bits(jax.random.key(0), (1 << 20,))
        checkpoints.save(2, {"x": big, "y": big}, {})
        (_, response) = checkpoints._pending
        while not response._thread_runner._future.done():
            time.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with one_line():
        checkpoints.wait()
    assert capfd.readouterr().err == "" and checkpoints.steps() == [1]
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("jump", [366 * 86400, -366 * 86400])
def test_a_clock_that_is_set_amid_a_save_ends_nothing(tmp_path, monkeypatch, jump):
    real, calls = time.time, []
    monkeypatch.setattr(
        time, "time", lambda: real() + jump * min(calls.append(None) or len(calls), 9)
    )
    saved(tmp_path, steps=(1, 2))
    monkeypatch.undo()
    assert len(calls) > 20
    state = make_state(2)
    assert_same(Checkpoints(tmp_path).restore(2, abstract(state)), state)


def test_directory_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with one_line():
        saved(tmp_path / "file")
    with one_line():
        saved(tmp_path / "file" / "below")


KILLED = """
rng = np.random.default_rng(0)
checkpoints = Checkpoints(sys.argv[1])
for step, size in [(1, 10), (2, 32 << 20)]:
    checkpoints.save(step, {"x": jnp.asarray(rng.normal(size=size), jnp.float32)}, {"n": size})
print("saving", flush=True)
checkpoints.wait()
print("complete", flush=True)
"""


def test_kill_while_saving_leaves_the_last_good_step(tmp_path):
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", STATE + KILLED, str(tmp_path)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "saving\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        assert process.stdout.read() == ""
    checkpoints = Checkpoints(tmp_path)
    assert any("tmp" in p.name for p in tmp_path.iterdir())
    assert checkpoints.steps() == [1] and checkpoints.meta(1) == {"n": 10}
    checkpoints.restore(1, {"x": jax.ShapeDtypeStruct((10,), jnp.float32)})
    checkpoints.save(2, {"x": jnp.ones(3)}, {"n": 3})
    checkpoints.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]
    assert checkpoints.meta(2) == {"n": 3}
