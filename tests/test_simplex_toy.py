"""The toy of Dirichlet flow matching: its divergence, its floor, its program, and every mistake."""

import json
import math
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import cli
from experiments.studies import simplex_toy
from experiments.studies.simplex_toy import LENGTH, METHODS, build, divergence, exact_draws, target

pytestmark = pytest.mark.representatives()  # a study: make test-all


def toy(out, *arguments):
    """The exit code of the program in this process."""
    return cli.guarded("studies.simplex_toy", ["--out", str(out), *map(str, arguments)])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder that a small run wrote, and its counts for every method."""
    out = tmp_path_factory.mktemp("toy") / "new" / "folder"
    counts, count = [], simplex_toy.count

    def kept(*arguments):
        counts.append(count(*arguments))
        return counts[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simplex_toy, "count", kept)
        assert toy(out, "--sizes", 3, 3, "--steps", 3, "--samples", 700, "--seed", 5) == 0
    return SimpleNamespace(out=out, counts=counts)


@pytest.mark.representatives()
def test_record_has_the_settings_and_the_figures(done):
    record = json.loads((done.out / "simplex_toy.json").read_text())
    settings = record["settings"]
    assert [settings[name] for name in ("sizes", "steps", "samples", "seed", "length")] == [
        [3],
        3,
        700,
        5,
        4,
    ]
    assert record["jax"] == jax.__version__ and record["seconds"] > 0
    methods = record["methods_at_first_size"]
    assert methods["linear"]["process"]["_type"] == "diffusion.linear_flow.LinearFlow"
    assert methods["linear"]["sampler"]["grid"] == "uniform"
    assert methods["Dirichlet"]["process"]["scale"] == 2.0
    assert methods["Dirichlet"]["train"]["batch_size"] == 512
    (result,) = record["results"]
    assert result["size"] == 3 and result["floor"] == 2 / 1400
    assert set(result["methods"]) == set(METHODS)
    for figures in result["methods"].values():
        assert 0 < figures["kl"] < 0.5 and 0.5 < figures["loss"] < 2  # log 3 = 1.1
        assert set(figures["seconds"]) == {"train", "sample"}


def test_figure_is_a_png_and_nothing_else_is_left(done):
    assert (done.out / "simplex_toy.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(p.name for p in done.out.iterdir()) == ["simplex_toy.json", "simplex_toy.png"]


def test_every_sample_is_counted_once_at_each_position(done):
    assert len(done.counts) == len(METHODS)
    for counts in done.counts:  # of one whole batch and a part of the next
        assert counts.shape == (LENGTH, 3) and (counts.sum(-1) == 700).all()


def test_network_is_told_the_position():
    """With equal states everywhere, only the position can make a difference."""
    model = build("Dirichlet", 3, steps=1, seed=0).model
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0)),
    )
    out = jax.jit(model.apply)(
        params, np.full((1, LENGTH, 3), 1 / 3, np.float32), np.full((1, 1), 0.5)
    )
    assert out.shape == (1, LENGTH, 3)
    assert np.abs(np.diff(out[0], axis=0)).max(-1).min() > 1e-2


def test_divergence_is_of_the_samples_from_the_target():
    counts = np.array([[3, 1, 0], [1, 1, 2]])
    p = np.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])
    assert divergence(counts, p) == pytest.approx(0.75 * math.log(1.5) / 2)
    assert divergence(np.array([[0, 0, 4]]), p[:1]) == pytest.approx(math.log(4))
    assert divergence(np.array([[1, 3]]), np.array([[0.5, 0.5]])) == pytest.approx(
        0.25 * math.log(0.5) + 0.75 * math.log(1.5)  # the other direction is 0.1438
    )


@pytest.mark.parametrize("size", [2, 5, 40])
def test_floor_is_what_exact_draws_give(size):
    samples, p = 20_000, target(size, seed=1)
    assert p.shape == (LENGTH, size) and np.allclose(p.sum(-1), 1)
    assert (p.max(-1) < math.e * p.min(-1)).all()
    mean, deviation = exact_draws(p, samples, seed=1)
    floor = (size - 1) / 2 / samples
    assert abs(mean - floor) < 4 * deviation / simplex_toy._REPEATS**0.5
    # 2N KL is chi-square with K - 1 degrees of freedom, and LENGTH of them are averaged
    assert deviation == pytest.approx(floor * (2 / (LENGTH * (size - 1))) ** 0.5, rel=0.25)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--sizes", "1"], "at least 2 tokens"),
        (["--sizes", "five"], "whole number"),
        (["--sizes"], "--sizes"),
        (["--steps", "0"], "from 1 to"),
        (["--samples", "-3"], "from 1 to"),
        (["--seed", "-1"], "--seed"),
        (["--dim", "3"], "--dim"),
    ],
)
def test_mistakes_end_with_one_line_and_code_2(arguments, words, tmp_path, capsys):
    assert toy(tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_found_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(simplex_toy, "measure", lambda *arguments: pytest.fail("trained"))
    (tmp_path / "out").write_text("mine")
    assert toy(tmp_path / "out") == 2
    assert "out: File exists" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert toy(tmp_path / "out") == 2
    assert 'pip install -e ".[plot]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
