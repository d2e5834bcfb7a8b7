"""Compiled programs are kept between commands: the same results, bounded, safe against kills."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard
from conftest import SMALL

from experiments import program_cache
from experiments.program_cache import cache_folder, keep_programs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of programs of a user whose cache folder is empty."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("DDLM_CACHE", str(tmp_path / "cache"))
    for name in program_cache._SETTINGS:
        monkeypatch.setenv(name, "untouched")
    yield lambda: Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)


def entry(folder, name, size=1000, age=0.0):
    file = folder / f"{name}-cache"
    file.write_bytes(zstandard.compress(os.urandom(size)))
    os.utime(file, (time.time() - age, time.time() - age))
    return file


def test_programs_lie_in_the_users_cache_folder_alone(folder, tmp_path):
    keep_programs()
    assert folder().parent == tmp_path / "cache" / "programs"
    assert folder().stat().st_mode & 0o077 == 0


def test_an_empty_value_keeps_none_and_leaves_the_folder_of_tokens(folder, monkeypatch):
    monkeypatch.setenv("DDLM_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    keep_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    assert cache_folder() == Path("/somewhere/ddlm")


def test_the_users_own_setting_of_jax_stays(folder, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/mine")
    keep_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/mine"


def test_a_folder_that_others_may_write_into_is_not_used(folder):
    keep_programs()
    folder().chmod(0o777)
    del os.environ["JAX_COMPILATION_CACHE_DIR"]
    keep_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_a_file_in_the_place_of_the_folder_is_no_error(folder, tmp_path):
    (tmp_path / "cache").write_text("")
    keep_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_what_was_not_used_for_longest_goes_beyond_the_limit(folder, monkeypatch):
    keep_programs()
    old, new = entry(folder(), "old", 2000, age=100), entry(folder(), "new", 2000)
    monkeypatch.setattr(program_cache, "LIMIT", 3000)
    del os.environ["JAX_COMPILATION_CACHE_DIR"]
    keep_programs()
    assert (old.exists(), new.exists()) == (False, True)


def test_files_that_a_killed_process_left_incomplete_go(folder):
    keep_programs()
    whole, cut, empty = (entry(folder(), name) for name in ("whole", "cut", "empty"))
    cut.write_bytes(cut.read_bytes()[:-100])
    empty.write_bytes(b"")
    del os.environ["JAX_COMPILATION_CACHE_DIR"]
    keep_programs()
    assert [f.exists() for f in (whole, cut, empty)] == [True, False, False]


def command(*words, cache):
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    env |= {"JAX_PLATFORMS": "cpu", "DDLM_CACHE": str(cache), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    words = [sys.executable, "-m", *words]
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.representatives()
def test_a_run_is_the_same_with_kept_programs_and_says_nothing_of_damaged_ones(tmp_path):
    """Trained without, into, and from a cache of which half is damaged: equal losses, bit for bit."""
    losses = []
    cache = tmp_path / "cache"
    overrides = [word for setting in SMALL for word in ("--set", setting)]
    for number in range(3):
        run = tmp_path / str(number)
        if number == 2:
            for file in sorted(cache.glob("programs/*/*-cache"))[::2]:
                file.write_bytes(file.read_bytes()[:50])
                os.utime(file, (0, 0))  # as if it had been looked at already
        done = command(
            "experiments.train", "--config", "configs/sotu/mdlm.py", "--workdir", str(run),
            "--set", f"data.cache_dir={tmp_path / 'data'}", *overrides,
            cache="" if number == 0 else cache,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses.append(
            [line.get("train/loss_nats_per_token", line.get("validation/value")) for line in lines]
        )
        assert any(cache.glob("programs/*/*-cache")) == (number > 0)
    assert losses[0] == losses[1] == losses[2]
