"""Checkpoints that are damaged, missing or of another state, and disks that fail: a line says what."""

import logging
import os
import re
import resource
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_states import (
    STATE,
    abstract,
    assert_same,
    files,
    make_state,
    one_line,
    saved,
    snapshot,
)

from experiments.errors import UserError, shortened
from experiments.training.checkpoints import Checkpoints

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
