"""Test settings: CPU, strict ranks, a shared compilation cache, and the golden numbers."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_CACHE = Path(tempfile.gettempdir()) / f"ddlm-tests-{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("DDLM_CACHE", str(_CACHE / "data"))

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

HERE = Path(__file__).parent
# Settings of the smallest run of a config of configs/sotu that goes through all that a run does.
SMALL = (
    "model.num_layers=1", "model.width=16", "model.num_heads=2", "model.condition_width=8",
    "train.batch_size=4", "train.num_steps=2", "train.log_every=1", "train.eval_every=2",
    "train.checkpoint_every=2", "optimizer.warmup_steps=0", "evaluation.max_sequences=4",
)  # fmt: skip
REFERENCE = [
    Path(p)
    for p in (
        os.environ.get("DDLM_REFERENCE", HERE.parent.parent / "shared" / "reference"),
        HERE / "golden",
    )
]


def reference(name: str) -> dict[str, np.ndarray]:
    """The arrays of `name`.npz in the reference folder; the test is skipped where it is absent."""
    for folder in REFERENCE:
        if (folder / f"{name}.npz").is_file():
            with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
                return dict(arrays)
    pytest.skip(f"{name}.npz is in none of {', '.join(map(str, REFERENCE))} (set DDLM_REFERENCE)")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Compiled programs of a module are dropped at its end: over all modules they are gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Double precision, for the comparison with exact numbers."""
    with jax.enable_x64(True):
        yield
