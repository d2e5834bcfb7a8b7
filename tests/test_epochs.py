"""Less training text, and the study of trainings that see it many times."""

import numpy as np
import pytest
from conftest import SMALL

from experiments import cli
from experiments.data.rows import Rows
from experiments.data.text import Text, prepare
from experiments.data.tokenizers import Characters
from experiments.evaluation.record_files import read_record
from experiments.sample_metrics.occurrences import match_lengths
from experiments.studies.measuring import epochs
from experiments.studies.measuring.epochs import Point, answers
from experiments.studies.measuring.memorisation import shares_in_matches

CONFIGS = ["--config", "configs/sotu/mdlm.py", "--config", "configs/sotu/autoregressive.py"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder with texts of each split."""
    folder = tmp_path_factory.mktemp("text")
    random = np.random.default_rng(0)
    for name, size in (("train", 2000), ("valid", 300), ("test", 300)):
        (folder / f"{name}.txt").write_text("".join(random.choice(list("abc \n"), size)))
    return folder


def test_training_text_is_cut_and_held_out_text_is_not(text, rejected):
    settings = {"path": str(text), "tokenizer": Characters(), "length": 16}
    settings["cache_dir"] = str(text.parent / "cache")
    every, less = (prepare(Text(**settings, train_tokens=n)) for n in (None, 500))
    np.testing.assert_array_equal(less.split("train", 1), every.split("train", 1)[:500])
    for name in ("validation", "test"):
        np.testing.assert_array_equal(less.split(name, 1), every.split(name, 1))
        assert less.sha256[name] == every.sha256[name]
    assert less.sha256["train"] != every.sha256["train"]
    whole = prepare(Text(**settings, train_tokens=2000))
    assert whole.sha256 == every.sha256 and whole.bounds == every.bounds
    assert "the train split of" in rejected(prepare, Text(**settings, train_tokens=2001))
    with pytest.raises(ValueError, match="less than one sequence"):
        Text(**settings, train_tokens=15)


def test_documents_stay_whole(text):
    settings = {"path": str(text), "tokenizer": Characters(), "length": 64, "document": "line"}
    settings |= {"rows": "sentence", "cache_dir": str(text.parent / "cache")}
    every, less = (
        prepare(Text(**settings, train_tokens=n)).sequences("train", 64, "sentence")
        for n in (None, 500)
    )
    assert isinstance(less, Rows) and isinstance(every, Rows)
    assert 400 < less.count <= 500 < less.count + every.sizes[len(less)]
    np.testing.assert_array_equal(less.stops, every.stops[: len(less)])


@pytest.fixture(scope="module")
def study(text, tmp_path_factory):
    """(words of the command, its folder, the trainings) after one epoch, then two."""
    folder = tmp_path_factory.mktemp("study")
    settings = [
        *SMALL, f"data.path={text}", f"data.cache_dir={folder}", "data.tokenizer=Characters",
        "data.length=16", "optimizer.schedule=WarmupConstant", "optimizer.schedule.peak_lr=1e-2",
        "optimizer.schedule.warmup_steps=0", "train.keep_last=1", "train.keep_best=0",
    ]  # fmt: skip
    words = [*CONFIGS, "--workdir", str(folder / "w"), "--tokens", "160", "--max-sequences", "8"]
    words += [word for setting in settings for word in ("--set", setting)]
    trained, train = [], epochs.train

    def counted(experiment, directory, *arguments, **more):
        trained.append((directory.name, experiment.train.num_steps))
        train(experiment, directory, *arguments, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(epochs, "train", counted)
        assert cli.guarded("studies.epochs", [*words, "--epochs", "1"]) == 0
        assert cli.guarded("studies.epochs", [*words, "--epochs", "2", "1"]) == 0  # goes on
    return words, folder / "w", trained


@pytest.mark.representatives()
def test_the_study_trains_each_method_and_evaluates_it_at_each_number_of_epochs(study, capsys):
    words, workdir, trained = study
    names = ("sotu-mdlm", "sotu-autoregressive")
    # 10 sequences an epoch of 160 tokens, 4 a step
    assert trained == [*((n, 2) for n in names), *((n, 5) for n in names)]
    table = (workdir / "table.md").read_text()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines()[2:6]]
    assert [row[:5] for row in rows] == [
        [name, kind, epoch, step, "1"]
        for name, kind in zip(names, ("bound", "exact"), strict=True)
        for epoch, step in (("1", "2"), ("2", "5"))
    ]
    assert "sotu-mdlm: lowest held out after " in table
    assert (workdir / "plot.png").read_bytes().startswith(b"\x89PNG")
    record = read_record(workdir / names[0] / "records" / "train-5-max_sequences=8.json")
    assert (record["split"], record["tokens"]) == ("train", 128)
    (workdir / names[0] / "records" / "train-2-max_sequences=8.json").unlink()
    assert cli.guarded("studies.epochs", [*words, "--epochs", "1", "2"]) == 2
    assert "is at step 5 already and has no checkpoint of step 2" in capsys.readouterr().err


@pytest.mark.representatives()
def test_memorisation_is_what_samples_share_with_the_training_text(study, tmp_path):
    run = str(study[1] / "sotu-autoregressive")
    words = ["--run", run, "--num", "5", "--lengths", "1", "4", "16", "--out", str(tmp_path)]
    assert cli.guarded("studies.memorisation", words) == 0
    table = (tmp_path / "table.md").read_text()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[0] == ["at least", "sotu-autoregressive", "sotu-autoregressive, held out"]
    assert [row[0] for row in rows[2:]] == ["1", "4", "16"]
    assert rows[2][2] == "100.0 ± 0.0"  # every letter occurs
    assert rows[4][2] == "0.0 ± 0.0"
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_shares_are_of_positions_in_matches():
    matches = match_lengths(["xxabcdexxx", "abc"], ["..abcde..", "abc"])
    three, four, nine = shares_in_matches(matches, (3, 4, 9))
    assert three.mean == pytest.approx((0.5 + 1) / 2)  # abcde of ten, abc of three
    assert four.mean == pytest.approx((0.5 + 0) / 2) and nine.mean == 0
    assert three.error == pytest.approx(0.25)


def test_the_answer_is_where_held_out_values_are_lowest():
    def point(epoch, value):
        record = {"value": value, "standard_error": 0.01}
        return Point("a", epoch, 10 * epoch, (record,), (record,))

    assert answers([point(1, 3.0), point(3, 2.5), point(10, 2.75)]) == (
        "a: lowest held out after 3 epochs, 2.500; 0.250 more after 10"
    )
    assert answers([point(1, 3.0), point(3, 2.5)]).endswith("after 3 epochs, 2.500, the last")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--epochs", "0"], "0 must be a number above 0"),
        (["--tokens", "99999999"], "data.train_tokens = 99999999, but"),
        (["--set", 'data.sources=(None, "a.txt")'], "epochs of its own"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(words, message, tmp_path, capsys):
    words = [*CONFIGS, "--workdir", str(tmp_path / "w"), *words]
    assert cli.guarded("studies.epochs", words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "w").exists()
