"""Whether this machine and installation train: what a bug report needs to say, and what is wrong.

Nothing is written, and no program is taken from or put into the cache.
"""

import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from experiments.errors import shortened
from experiments.files import why_unwritable
from experiments.overview.configs import FOLDER
from experiments.program_cache import (
    LIMIT,
    cache_folder,
    chosen_otherwise,
    program_folder,
    why_unusable,
)

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_FAILS = "fails"
_LEAST_DISK = 10**9  # bytes: some checkpoints of a small model and its prepared text
_LEAST_MEMORY = 10**9
_NVIDIA = Path("/proc/driver/nvidia/version")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. found: what there is; wrong: what is wrong with it and what to do,
    "" where it is as it should be."""

    name: str
    found: str
    wrong: str = ""


def checks() -> Iterator[Check]:
    """Each check as soon as it is made; the last ones do not need the first to be good."""
    yield _system()
    yield _packages()
    yield (devices := _tried("devices", _devices))
    if devices.found != _FAILS:
        yield _tried("train step", _train_step)
    yield _programs()
    yield _allocator()
    yield from _disks()


def _tried(name: str, check: Callable[[str], Check]) -> Check:
    try:
        return check(name)
    except Exception as error:  # whatever it is, the report has to say so and go on
        asked = os.environ.get("JAX_PLATFORMS")
        hint = f"; JAX_PLATFORMS is {asked}: unset it, or install what it asks for" if asked else ""
        what = shortened(f"{type(error).__name__}: {error}").rstrip(": ")
        return Check(name, _FAILS, what + hint * (check is _devices))


def _system() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check(
        "system",
        f"{platform.platform()}, {cores} CPU cores, Python {platform.python_version()}",
    )


def _packages() -> Check:
    found, missing = [], []
    for name in ("ddlm", *_PACKAGES):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    wrong = f"{', '.join(missing)}: not installed; install ddlm again" if missing else ""
    return Check("packages", ", ".join(found), wrong)


def _devices(name: str) -> Check:
    import jax

    from experiments.devices.memory import device_memory

    devices, memory = jax.devices(), device_memory()
    found = f"{len(devices)} x {devices[0].device_kind}, {memory / 1e9:,.1f} GB of memory each"
    wrong = ""
    if memory < _LEAST_MEMORY:
        wrong = "less than 1 GB of memory is little even for the smallest models"
    unused = _NVIDIA.exists() and not os.environ.get("JAX_PLATFORMS")
    if devices[0].platform == "cpu" and unused:
        wrong = "there is an NVIDIA GPU that jax does not use; pip install 'jax[cuda12]'"
    return Check(name, found, wrong)


def _train_step(name: str) -> Check:
    """Compiles and runs the training step of configs/smoke.py on random letters."""
    import jax
    import numpy as np

    from experiments.data.tokenizers import Letters27
    from experiments.devices.sharding import make_mesh
    from experiments.overrides import load, resolve
    from experiments.training.trainer import described_batch, described_state, make_step

    kept = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        changes = [
            f"train.batch_size={8 * jax.device_count()}",
            "model.num_layers=1",
            "model.dropout=0",
        ]
        experiment = resolve(load(str(FOLDER / "smoke.py"), changes), Letters27())
        mesh = make_mesh(experiment.mesh)
        like = described_state(experiment, mesh)
        shardings = jax.tree.map(lambda x: x.sharding, like)
        tokens, conditioning = described_batch(experiment, mesh)
        start = time.perf_counter()
        step = make_step(experiment, mesh, shardings).lower(like, tokens, conditioning).compile()
        compiled = time.perf_counter()
        draws = np.random.default_rng(0)
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        # Drawn here: to compile what draws them as a run does takes as long as the rest.
        state["params"] = jax.tree.map(
            lambda x: draws.normal(0, 0.1, x.shape).astype(x.dtype), state["params"]
        )
        state = jax.device_put(state, shardings)
        batch = jax.device_put(draws.integers(0, 27, tokens.shape, np.int32), tokens.sharding)
        state, _ = jax.block_until_ready(step(state, batch, conditioning))  # the first allocates
        begun = time.perf_counter()
        state, loss = jax.block_until_ready(step(state, batch, conditioning))
        ran = time.perf_counter()
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
    return _stepped(name, compiled - start, ran - begun, float(loss))


def _stepped(name: str, compiling: float, running: float, loss: float) -> Check:
    found = f"compiles in {compiling:.1f} s, runs in {running:.4f} s, loss {loss:.3f}"
    wrong = "" if math.isfinite(loss) else "the loss of a first step has to be finite"
    return Check(name, found, wrong)


def _programs() -> Check:
    name = "program cache"
    try:
        if why := chosen_otherwise():
            return Check(name, f"not used, since {why}")
        folder, why = program_folder(), why_unusable()
        size = sum(p.stat().st_size for p in folder.parent.glob("*/*-cache"))
    except (OSError, RuntimeError) as error:  # no home; a folder that cannot be read
        return Check(name, "not used", f"{shortened(str(error))}; set DDLM_CACHE to a folder")
    if not why:
        return Check(name, f"{folder}, {size / 2**20:,.0f} of {LIMIT / 2**20:,.0f} MiB")
    return Check(name, f"not used: {folder}", f"{why}; or set DDLM_CACHE to another folder")


def _allocator() -> Check:
    """Huge pages make training on CPU about a fifth faster; a machine without trains all the same."""
    library, number = platform.libc_ver()
    asked = "glibc.malloc.hugetlb=1" in os.environ.get("GLIBC_TUNABLES", "")
    try:
        chosen = _HUGE_PAGES.read_text().partition("[")[2].partition("]")[0]
    except OSError:
        chosen = "unavailable"
    new = library == "glibc" and [int(n) for n in number.split(".")] >= [2, 35]
    used = chosen == "always" or (asked and new and chosen == "madvise")
    about = f"{library or 'no glibc'} {number}".strip()
    state = "huge pages" if used else "no huge pages (training on CPU is about a fifth slower)"
    return Check(
        "allocator",
        f"{state}: {about}, transparent huge pages {chosen}, "
        f"GLIBC_TUNABLES={os.environ.get('GLIBC_TUNABLES', '')}",
    )


def _disks() -> Iterator[Check]:
    folders = {"working folder": Path.cwd}
    folders["cache folder"] = cache_folder
    for name, where in folders.items():
        try:
            folder = where()
            there = next(f for f in (folder, *folder.absolute().parents) if f.exists())
            free = shutil.disk_usage(there).free
        except (OSError, RuntimeError) as error:
            yield Check(name, "cannot be read", shortened(str(error)))
            continue
        wrong = why_unwritable(str(folder / ".ddlm-doctor")) or ""
        if free < _LEAST_DISK:
            wrong = "less than 1 GB is free; make space, or work in another folder"
        yield Check(name, f"{folder}, {free / 1e9:,.1f} GB free", wrong)
