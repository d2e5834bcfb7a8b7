"""The study of rates that are too high, and the settings of initial sizes that it tries."""

import jax
import numpy as np
import pytest
from conftest import SMALL

from experiments import cli
from experiments.comparison import methods
from experiments.errors import Diverged
from experiments.studies.measuring.stability import _rises, those_that_change
from experiments.studies.stability import SETTINGS
from models.transformer import Transformer

MDLM = "configs/sotu/mdlm.py"


def test_embeddings_and_closing_matrices_begin_at_the_sizes_asked_for():
    sizes = {"num_layers": 2, "width": 64, "num_heads": 2}

    def parts(**settings):
        made = Transformer(30, **sizes, **settings).init(jax.random.key(0))
        layers = made["layers"]
        closing = layers["attention"]["out"]["kernel"], layers["mlp"]["down"]["kernel"]
        return made["ends"]["embedding"], closing, layers["mlp"]["up"]["kernel"]

    table, closing, opening = parts()
    small, large, same = parts(embedding_std=0.02, residual_scale=1.0)
    np.testing.assert_allclose(small, 0.02 * table, rtol=1e-5)
    for usual, other in zip(closing, large, strict=True):
        np.testing.assert_allclose(other, 2 * usual, rtol=1e-5)  # (2 N)^-1/2 is a half
    np.testing.assert_array_equal(same, opening)
    for name in ("embedding_std", "residual_scale"):
        with pytest.raises(ValueError, match=f"Transformer.{name} = 0 must be above 0"):
            parts(**{name: 0})


def test_a_loss_has_risen_above_the_lowest_before_it():
    assert _rises([2.0, 1.0, 1.05, 1.2, 0.9, 1.0, 0.95]) == 2


def test_only_settings_that_change_the_config_are_tried():
    assert "model.qk_norm=True" not in those_that_change(MDLM, [], SETTINGS)
    kept = those_that_change("configs/sotu/plaid.py", [], SETTINGS)
    assert "model.qk_norm=False" in kept and "train.token_loss=ZLoss" not in kept


@pytest.mark.representatives()
def test_the_study_has_a_row_of_each_rate_and_setting_and_says_what_diverged(
    tmp_path, monkeypatch, capsys
):
    words = ["--config", MDLM, "--workdir", str(tmp_path / "w"), "--rates", "1", "30"]
    settings = [
        *SMALL,
        "optimizer.schedule.peak_lr=2e-3",
        "data.length=16",
        f"data.cache_dir={tmp_path}",
    ]
    words += ["--setting", "model.qk_norm=False", *(w for s in settings for w in ("--set", s))]
    train = methods.train

    def lost(experiment, workdir, *arguments, **more):
        if workdir.name == "base-x30":
            raise Diverged("too fast")
        assert experiment.optimizer.schedule.peak_lr == pytest.approx(
            2e-3 * (30 if workdir.name.endswith("x30") else 1)
        )
        if workdir.name != "base-x1":  # one is trained, the others give its record
            return
        train(experiment, workdir, *arguments, **more)

    record, evaluate = {}, methods._evaluate

    def evaluated(plan, method, log):
        record.update(record or evaluate(plan, method, log))
        return record

    monkeypatch.setattr(methods, "train", lost)
    monkeypatch.setattr(methods, "_evaluate", evaluated)
    assert cli.guarded("studies.stability", words) == 0, capsys.readouterr().err
    table = (tmp_path / "w" / "table.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [row[:2] for row in rows] == [
        ["as the config", "x 1"], ["as the config", "x 30"],
        ["model.qk_norm=False", "x 1"], ["model.qk_norm=False", "x 30"],
    ]  # fmt: skip
    assert [row[4] for row in rows] == ["0 of 1", "1 of 1", "0 of 1", "0 of 1"]
    assert rows[1][2] == "-" and rows[0][2] == f"{record['value']:.4f}"
    assert (tmp_path / "w" / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--rates", "0"], "0 must be a number above 0"),
        (["--setting", "model.nothing=1"], "model.nothing: no such setting"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(words, message, tmp_path, capsys):
    words = ["--config", MDLM, "--workdir", str(tmp_path / "w"), *words]
    assert cli.guarded("studies.stability", words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "w").exists()
