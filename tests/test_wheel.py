"""The package as users install it: a wheel in an environment of its own, far from the sources.

The libraries are those of this environment, which the new one finds behind its own packages.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from conftest import SMALL
from packaging.requirements import Requirement
from test_layout import OURS

ROOT = Path(__file__).parent.parent
TINY = (*SMALL, "evaluation.num_times=2", "data.length=16")
# Every command that reads a file of the package beside its modules, and those that a user begins with.
COMMANDS = f"""
import sys
from experiments import cli
sets = [word for setting in {TINY!r} for word in ("--set", setting)]
run = ["--workdir", "runs/a"]
for name, *arguments in (
    ("configs", "smoke"),
    ("train", "--config", "configs/smoke.py", *run, *sets),
    ("evaluate", *run, "--split", "test", "--num-times", "1"),
    ("sample", *run, "--num", "1", "--trace", "a.html"),
    ("trace", "pages.html", "a.html"),
    ("prepare", "--dataset", "lines", "--source", "lines.txt", "--out", "lines"),
    ("runs",),
):
    assert cli.guarded(name, arguments) == 0, name
from experiments.comparison.published import published
assert published
from experiments.data.builders import builder_class
assert builder_class("ptb").url_infos
ours = {sorted(OURS | {"ddlm"})!r}
found = {{m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in ours and m.__file__}}
print(sorted(found), file=sys.stderr)
"""


SOURCES = (*OURS, "ddlm.py", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The file of a wheel that was built of a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('built')"
    (folder / "built").mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=folder, check=True, capture_output=True)
    (built,) = (folder / "built").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin_folder(wheel, tmp_path_factory):
    """The folder of programs of a new environment in which the wheel is installed."""
    place = tmp_path_factory.mktemp("environment") / "env"
    venv.create(place, with_pip=True)
    site = next(place.glob("lib/python*/site-packages"))
    install = [
        place / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
    ]
    subprocess.run([*install, wheel], check=True, capture_output=True)
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text(
        "\n".join(libraries)
    )  # of which editable installs are no part
    return place / "bin"


def test_a_wheel_has_every_file_of_its_packages_and_the_names_that_the_guide_states(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    here = [path for package in OURS for path in (ROOT / package).rglob("*") if path.is_file()]
    here = {str(p.relative_to(ROOT)) for p in here if "__pycache__" not in p.parts}
    assert set(names) == here | {"ddlm.py"}
    page = (ROOT / "docs/guide/installing.md").read_text()
    stated = page.partition("The installation puts")[2].partition("site-packages")[0]
    assert set(re.findall(r"`([\w.]+)`", stated)) == {name.split("/")[0] for name in names}


@pytest.mark.representatives()
@pytest.mark.slow
def test_an_installed_wheel_trains_evaluates_samples_and_shows_far_from_its_sources(
    bin_folder, tmp_path
):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (tmp_path / "lines.txt").write_text("".join(f"line {n}\n" for n in range(40)))

    def call(*words):
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    assert "ddlm train --config" in call(bin_folder / "ddlm", "--help")[0]
    out, err = call(bin_folder / "python", "-c", COMMANDS)
    assert "configs/smoke.py" in out
    site = str(bin_folder.parent / "lib")
    assert not [path for path in eval(err.splitlines()[-1]) if not path.startswith(site)]
    assert json.loads(next(tmp_path.glob("runs/a/records/*.json")).read_text())["value"] > 0
    assert "<html" in (tmp_path / "pages.html").read_text()


def test_the_dockerfile_installs_these_sources_at_the_tested_versions_for_a_user_without_rights(
    tmp_path,
):
    text = (ROOT / "Dockerfile").read_text()
    steps = [line.split() for line in text.splitlines() if line and line[0] not in "# "]
    copied = {name for step, *words in steps if step == "COPY" for name in words[:-1]}
    assert copied == {*SOURCES, "requirements.lock"}
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} == {line for line in kept if line[0] == "!"}
    assert kept[0] == "*" and steps[0] == ["FROM", "python:3.11-slim"]
    ends = {step: words for step, *words in steps}
    assert ends["USER"] == ["ddlm"] and ends["ENTRYPOINT"] == ['["ddlm"]']
    (strip,) = re.findall(r"^RUN (sed .*)$", text, re.MULTILINE)
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    subprocess.run(["/bin/sh", "-c", strip], cwd=tmp_path, check=True)
    pinned = map(Requirement, (tmp_path / "constraints.txt").read_text().splitlines())
    names = {r.name for r in pinned if not r.marker or r.marker.evaluate()}
    needed = {
        Requirement(line).name.lower().replace("_", "-")
        for line in requires("ddlm")
        if "extra" not in line
    }
    assert needed and needed <= names
