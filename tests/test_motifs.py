"""The planted motifs, their detection, and the program that measures guidance by them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.studies.measuring.motif_task import METHODS, Task


def test_every_sequence_contains_the_motif_of_its_label():
    task = Task(length=20, motif=5, num_labels=6, seed=1)
    x, label = task.draw(jax.random.key(0), 500)
    found = np.asarray(task.contains(x))
    assert x.shape == (500, 20) and x.min() == 0 and x.max() == 3
    assert found[np.arange(500), label].all() and set(np.unique(label)) == set(range(6))
    first = np.array(task.motifs[2])
    x = jnp.asarray(np.full((2, 20), 3)).at[1, 15:].set(first).at[0, 16:].set(first[:4])
    assert not task.contains(x)[0, 2] and task.contains(x)[1, 2]
    background = np.asarray(task.draw(jax.random.key(3), 4000)[0])
    # a given place is background or motif; its bases are near uniform all the same
    assert np.abs(np.bincount(background[:, 0]) / 4000 - 0.25).max() < 0.1


@pytest.mark.representatives()
def test_program_measures_the_fraction_and_draws_it(tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(METHODS, "Dirichlet FM")  # the same again, and as long to compile
    arguments = [
        "--steps",
        "100",
        "--samples",
        "16",
        "--sample-steps",
        "3",
        "--strengths",
        "0",
        "2",
    ]
    size = ["--length", "8", "--motif", "2", "--labels", "4", "--batch-size", "8"]
    assert cli.guarded("studies.motifs", [*arguments, *size, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "motifs.json").read_text())
    assert len(record["results"]) == 2 and (tmp_path / "motifs.png").stat().st_size > 5000
    for rows in record["results"].values():
        assert [row["strength"] for row in rows] == [0, 2]
        assert all(0 <= row["right"] <= 1 and row["bases_entropy_bits"] < 2.001 for row in rows)
    assert "| BFN, classifier |" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--motif", "40"], ["--labels", "2"], ["--steps", "0"]])
def test_impossible_tasks_are_one_line(wrong, tmp_path, capsys):
    assert cli.guarded("studies.motifs", [*wrong, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "out").exists()
