"""An import does not need memory for the model."""

import sys

import jax
import numpy as np
import pytest
from conftest import GOLDEN

from experiments.published import importing
from experiments.published.importing import import_run
from experiments.published.opening import open_checkpoint
from experiments.run import load_run
from experiments.studies.import_memory import measured, write_checkpoint

LARGE = 60_000_000  # bytes of bfloat16; twice as many in float32


@pytest.mark.representatives()
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_an_import_holds_less_than_one_copy_of_the_model(tmp_path):
    """Beside what the import of one of 2 % of its size takes: Python, jax and orbax."""
    own = []
    for name, size, width in (("small", LARGE // 50, 128), ("large", LARGE, 512)):
        write_checkpoint(tmp_path / name, size, 2, width)
        line = [str(tmp_path / name), "--workdir", str(tmp_path / f"{name}-run")]
        own.append(measured([sys.executable, "-m", "experiments.import", *line])["own"])
    assert own[1] - own[0] < 2 * LARGE


@pytest.mark.parametrize("name", ["dream", "smdm_grouped", "sedd_absorb", "radd"])
def test_what_went_through_files_is_in_the_run_and_the_files_are_gone(
    name, tmp_path, monkeypatch, rejected
):
    """Stacked layers, matrices beside each other, heads in groups, rows added, outputs taken away."""
    source, workdir = GOLDEN / "checkpoints" / name, tmp_path / "run"
    full = importing.shutil.disk_usage(tmp_path)._replace(free=2000)
    with monkeypatch.context() as patched:
        patched.setattr(importing.shutil, "disk_usage", lambda folder: full)
        assert "free space there" in rejected(import_run, source, workdir)
    assert list(tmp_path.iterdir()) == []
    import_run(source, workdir, log=lambda line: None)
    assert not list(workdir.rglob("arrays"))
    expected = open_checkpoint(source).params()
    jax.tree.map(np.testing.assert_array_equal, load_run(str(workdir)).params, expected)
