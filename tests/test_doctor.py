"""ddlm doctor: what it finds, what it calls wrong, and that it writes nothing."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from experiments import cli
from experiments.overview import doctor

ROOT = Path(__file__).parent.parent


def test_a_healthy_machine_has_nothing_wrong_and_nothing_is_written(tmp_path):
    """In a process of its own, with a cache that is not there yet."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "DDLM_CACHE": str(tmp_path / "cache")}
    env.pop("JAX_COMPILATION_CACHE_DIR")
    line = [sys.executable, "-m", "experiments.doctor"]
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert f"jax {version('jax')}, jaxlib {version('jaxlib')}, flax " in found["packages"]
    assert "Python 3." in found["system"] and " x cpu, " in found["devices"]
    assert "loss 3." in found["train"] and "compiles in " in found["train"]
    assert str(tmp_path / "cache" / "programs") in found["program"]
    assert done.stdout.endswith("all checks pass\n") and "WRONG" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def small(monkeypatch):
    """The checks by name, without the one that compiles."""
    monkeypatch.setattr(doctor, "_train_step", lambda name: doctor.Check(name, "not here"))
    return {check.name: check for check in doctor.checks()}


def test_a_check_that_is_not_good_is_said_at_its_line_with_code_1(monkeypatch, capsys):
    def no_space(folder):
        return shutil._ntuple_diskusage(10, 9, 1)

    monkeypatch.setattr(doctor.shutil, "disk_usage", no_space)
    monkeypatch.setattr(doctor, "_train_step", lambda name: doctor.Check(name, "not here"))
    assert cli.guarded("doctor", []) == 1
    out, err = capsys.readouterr()
    assert out.count("WRONG: less than 1 GB is free; make space") == 2
    assert err == "error: these checks fail: working folder, cache folder\n"


@pytest.mark.parametrize(
    "failing, name, said",
    [
        (
            "_devices",
            "devices",
            "RuntimeError: no such device; JAX_PLATFORMS is cuda: unset it, or install what it asks for",
        ),
        ("_train_step", "train step", "RuntimeError: no such device"),
    ],
)
def test_what_fails_does_not_keep_the_rest_from_being_told(failing, name, said, monkeypatch):
    def fail(name):
        raise RuntimeError("no such\ndevice")

    monkeypatch.setattr(doctor, "_train_step", lambda name: doctor.Check(name, "not here"))
    monkeypatch.setattr(doctor, failing, fail)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    found = {check.name: check.wrong for check in doctor.checks()}
    assert {name: wrong for name, wrong in found.items() if wrong} == {name: said}
    assert list(found)[-1] == "cache folder"
    assert ("train step" in found) is (name == "train step")  # not tried without devices


def test_a_loss_that_is_not_finite_is_wrong():
    assert "has to be finite" in doctor._stepped("train step", 1, 1, float("nan")).wrong
    assert doctor._stepped("train step", 1, 1, 3.0).wrong == ""


def test_a_gpu_that_jax_does_not_use_is_wrong_unless_it_was_told_so(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_NVIDIA", tmp_path)
    assert small(monkeypatch)["devices"].wrong == ""  # JAX_PLATFORMS=cpu of the tests
    monkeypatch.delenv("JAX_PLATFORMS")
    assert "an NVIDIA GPU that jax does not use" in small(monkeypatch)["devices"].wrong


def test_a_package_that_is_missing_is_named(monkeypatch):
    def without_optax(name):
        if name == "optax":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", without_optax)
    check = small(monkeypatch)["packages"]
    assert check.wrong == "optax: not installed; install ddlm again"
    assert "optax" not in check.found and "flax 1.0" in check.found


def test_the_cache_of_programs_says_why_it_is_not_used(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("DDLM_CACHE", "")
    check = small(monkeypatch)["program cache"]
    assert (check.found, check.wrong) == ("not used, since DDLM_CACHE is empty", "")
    monkeypatch.setenv("DDLM_CACHE", str(tmp_path))
    folder = doctor.program_folder()
    folder.mkdir(parents=True)
    (folder / "one-cache").write_bytes(bytes(3 * 2**20))
    check = small(monkeypatch)["program cache"]
    assert (check.found, check.wrong) == (f"{folder}, 3 of 512 MiB", "")
    folder.chmod(0o777)
    check = small(monkeypatch)["program cache"]
    assert check.wrong.startswith("others may write into it")


def test_a_cache_that_the_user_turned_off_is_not_looked_at(monkeypatch):
    def no_home():
        raise RuntimeError("no home")

    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("DDLM_CACHE", "")
    monkeypatch.setattr(doctor, "program_folder", no_home)
    monkeypatch.setattr(doctor, "why_unusable", no_home)
    assert doctor._programs().found == "not used, since DDLM_CACHE is empty"


def test_a_folder_in_the_working_folder_is_not_wrong_whatever_its_name(monkeypatch, tmp_path):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDLM_CACHE", str(tmp_path))
    assert [check.wrong for check in doctor._disks()] == ["", ""]


@pytest.mark.parametrize(
    "pages, library, asked, used",
    [
        ("always [madvise] never", "2.36", "glibc.malloc.hugetlb=1", True),
        ("always [madvise] never", "2.36", "", False),
        ("always [madvise] never", "2.31", "glibc.malloc.hugetlb=1", False),
        ("always madvise [never]", "2.36", "glibc.malloc.hugetlb=1", False),
        ("[always] madvise never", "2.31", "", True),
    ],
)
def test_huge_pages_need_the_library_the_system_and_the_setting(
    pages, library, asked, used, monkeypatch, tmp_path
):
    (tmp_path / "enabled").write_text(pages)
    monkeypatch.setattr(doctor, "_HUGE_PAGES", tmp_path / "enabled")
    monkeypatch.setattr(doctor.platform, "libc_ver", lambda: ("glibc", library))
    monkeypatch.setenv("GLIBC_TUNABLES", asked)
    check = small(monkeypatch)["allocator"]
    assert check.found.startswith("huge pages: ") is used and check.wrong == ""
