"""Which files are trained on, validated on and tested on: told by names, by data.splits, or rejected."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL

from experiments import cli
from experiments.data.splits import splits_named
from experiments.data.text import Text, prepare, training_lines
from experiments.data.tokenizers import Bytes
from experiments.errors import UserError
from experiments.overrides import differences, override
from experiments.serialization import decode, encode

LETTERS = {"train": "a", "validation": "b", "test": "c"}


def packed(how, files):
    """The bytes of a zip or tar of {name: text}."""
    made = io.BytesIO()
    if how == "zip":
        with zipfile.ZipFile(made, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
    else:
        with tarfile.open(fileobj=made, mode=f"w:{how}") as archive:
            for name, text in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
    return made.getvalue()


@pytest.fixture
def corpus(tmp_path):
    """corpus({name: text}, how, **settings): of a folder of these files or an archive of them."""

    def make(files, how="folder", **settings):
        path = tmp_path / "data"
        if how == "folder":
            for name, text in files.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_text(text)
        else:
            path = tmp_path / "packed"
            path.write_bytes(packed(how, files))
        return prepare(Text(str(path), cache_dir=str(tmp_path / "cache"), **settings))

    return make


def texts(corpus):
    return {
        n: corpus.tokenizer.decode(np.array(corpus.tokens[a:b]))
        for n, (a, b) in corpus.bounds.items()
    }


NAMED = [
    "my_test_corpus.{}.txt train valid test",
    "{}_my_dev_corpus.txt train valid test",
    "{}.txt train-train valid test",
    "{}/a.txt train valid test",
    "x/y/{}/a.txt Training val TESTING",
    "my_test_corpus/{}.txt train validation test",
    "wiki.{}.tokens train valid test",
    "{}-00000-of-00010.txt train dev test",
    "{}1.txt train valid test",
    "{}/test-driven.txt train valid test",
    "{} blog_test/train dev_blog/validation c/test",
    "{}.zip/a.txt train valid test",
]


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("how", ["folder", "zip", "gz"])
def test_a_whole_word_of_a_name_tells_the_split(named, how, corpus):
    pattern, *names = named.rsplit(" ", 3)
    files = {
        pattern.format(name): LETTERS[split] * 40
        for split, name in zip(LETTERS, names, strict=True)
    }
    found = corpus(files, how)
    assert texts(found) == {split: letter * 40 for split, letter in LETTERS.items()}
    assert found.files == "; ".join(
        f"{split}: {name}" for split, name in zip(LETTERS, files, strict=True)
    )


@pytest.mark.parametrize(
    "names, message",
    [
        (
            "train.txt test.txt",
            r"but none after validation.*\(\"train\.txt\", \"5%\", \"test\.txt\"\)",
        ),
        ("train/a.txt valid/a.txt", r"but none after test"),
        ("valid.txt test.txt", r"none after train.*\(\"\", \"valid\.txt\", \"test\.txt\"\)"),
        ("train.txt train.2.txt", "none after validation"),
        ("train-1.txt train-2.txt", "none after validation"),
        ("my_test_corpus.train.txt my_test_corpus.valid.txt", "none after test"),
        ("train.txt valid.txt test.txt more.txt", r"test: test\.txt\) and more\.txt not"),
        ("train.txt valid.txt test.txt eval.txt", r"and eval\.txt not"),
        ("train.txt valid.txt test.dev.txt", r"test\.dev\.txt is named after test and validation"),
        ("train/valid.txt test/a.txt dev/a.txt", r"train/valid\.txt is named after train and val"),
    ],
)
@pytest.mark.parametrize("how", ["folder", "zip", "xz"])
def test_what_names_leave_open_is_one_line_that_says_how_to_tell_it(names, message, how, corpus):
    with pytest.raises(UserError, match=message) as error:
        corpus(dict.fromkeys(names.split(), "of the people " * 9), how)
    assert '--set \'data.splits=("*", "5%", "5%")\'' in str(error.value)


def test_a_folder_of_one_split_is_told(corpus):
    with pytest.raises(UserError, match=r"train: train\.txt.*none after validation"):
        corpus({"train.txt": "of the people"})


@pytest.mark.parametrize("names", ["contest.txt", "attest/a.txt latest.txt prétrain.txt", "a b"])
def test_parts_of_words_tell_no_split(names, corpus):
    found = corpus(dict.fromkeys(names.split(), "a" * 100))
    assert found.one and found.files.endswith("cut into 90, 5 and 5 %")
    size = len(found.tokens)
    assert found.bounds["test"] == (int(0.95 * size), size)
    cut = corpus(dict.fromkeys(names.split(), "a" * 100), split_points=(50, 60, 70))
    assert cut.one and cut.files.endswith("cut at data.split_points")


def test_an_explicit_file_is_all_of_the_text_whatever_its_name(tmp_path):
    for name, content in (
        ("test.txt", b"a" * 100),
        ("train.zip", packed("zip", {"dev": "a" * 100})),
    ):
        (tmp_path / name).write_bytes(content)
        found = prepare(Text(str(tmp_path / name), cache_dir=str(tmp_path / "cache")))
        assert found.one and found.bounds["train"] == (0, 90)


@pytest.mark.parametrize(
    "splits, expected, words",
    [
        (("train.txt", "5%", "more/*"), ("a" * 95, "a" * 5, "d" * 40), "5 % of train"),
        (("train.txt", "test.txt", "10%"), ("a" * 90, "c" * 40, "a" * 10), "left out: more/x"),
        (("more", "", "test.txt|train.txt"), ("d" * 40, "", "c" * 40 + " " + "a" * 100), "test: "),
        (("", "", "t*t.txt"), ("", "", "c" * 40), "left out: more/x, train.txt"),
    ],
)
@pytest.mark.parametrize("how", ["folder", "zip"])
def test_splits_are_named_by_patterns_and_shares(splits, expected, words, how, corpus):
    files = {"train.txt": "a" * 100, "test.txt": "c" * 40, "more/x": "d" * 40}
    found = corpus(files, how, splits=splits)
    got = {k: sorted(v) for k, v in texts(found).items()}
    assert got == dict(zip(LETTERS, map(sorted, expected), strict=True))
    assert words in found.files


def test_all_may_be_cut_and_is_what_was_cut_without_a_word_before(corpus):
    files = {"test.txt": "c" * 40, "train.txt": "a" * 159}
    found = corpus(files, splits=("*", "5%", "5%"))
    assert "".join(texts(found).values()) == "c" * 40 + " " + "a" * 159
    assert found.bounds == {"train": (0, 180), "validation": (180, 190), "test": (190, 200)}


@pytest.mark.parametrize("share", ["5%", "12.5 %"])
def test_a_share_of_labelled_train_is_of_each_label(share, corpus):
    files = {"x/train.txt": "a" * 200, "y/train.txt": "b" * 199, "y/test.txt": "c" * 40}
    found = corpus(files, labels="folder", splits=("train.txt", share, "test.txt"))
    validation = texts(found)["validation"]
    size = 10 if share == "5%" else 25
    assert validation.count("a") == validation.count("b") == size
    assert texts(found)["test"] == "c" * 40
    labels = found.split_labels("validation").of(np.arange(2 * size), 1)
    assert labels.tolist() == [0] * size + [1] * size
    assert set(found.split_labels("test").of(np.arange(40), 1)) == {1}


def test_documents_are_cut_between_by_shares(corpus):
    files = {
        "train.txt": "".join(f"{letter * 9}\n" for letter in "abcdefghij"),
        "test.txt": "k\nl\n",
    }
    settings = dict(document="line", rows="sentence", splits=("train.txt", "15%", "test.txt"))
    found = corpus(files, **settings)
    assert texts(found)["validation"] == "j" * 9 and texts(found)["test"] == "kl"
    assert texts(found)["train"] == "".join(letter * 9 for letter in "abcdefghi")


@pytest.mark.parametrize(
    "splits, message",
    [
        (("nothing.txt", "", ""), "no file matches 'nothing.txt' in data.path .*a.txt, b.txt"),
        (("*", "b.txt", ""), "b.txt is in train and in validation"),
    ],
)
def test_patterns_that_do_not_fit_the_files_are_told(splits, message, corpus):
    with pytest.raises(UserError, match=message):
        corpus({"a.txt": "a", "b.txt": "b"}, splits=splits)


@pytest.mark.parametrize(
    "splits", [("5%", "5%", ""), ("", "5%", ""), ("", "", ""), ("*", "60%", "40%"), ("*", "0%", "")]
)
def test_splits_that_no_text_could_follow_are_rejected(splits):
    with pytest.raises(ValueError, match=r"Text\.splits"):
        Text("x", splits=splits)
    with pytest.raises(ValueError, match="split_points"):
        Text("x", splits=("*", "5%", ""), split_points=(1, 2, 3))


def test_splits_are_set_and_stored_and_a_run_without_them_loads():
    from configs.smoke import get_config

    changes = ["data.path=x", 'data.splits=("a b.txt", "5%", "")']
    experiment = override(get_config(), changes)
    assert experiment.data.splits == ("a b.txt", "5%", "")
    assert decode(encode(experiment)) == experiment
    stored = encode(experiment)
    del stored["data"]["splits"]
    assert decode(stored).data.splits is None
    other = override(experiment, ['data.splits=("*", "5%", "5%")'])
    assert not differences(decode(stored), other)  # its training text is compared by hash


def test_a_prepared_folder_may_lack_splits_also_in_an_archive(corpus):
    files = {"p/train.txt": "a" * 40, "p/dataset.json": '{"name": "ptb"}'}
    for how in ("folder", "zip", "gz"):
        found = corpus(files, how)
        assert texts(found) == {"train": "a" * 40, "validation": "", "test": ""} and not found.one


def test_labels_are_no_splits_but_what_is_below_may_be(corpus):
    files = {
        f"{x}/{s}/1.txt": s[:1] * 40 for x in ("dev", "news") for s in ("train", "val", "test")
    }
    found = corpus(files, labels="folder", tokenizer=Bytes())
    assert found.label_names == ("dev", "news")
    assert texts(found)["validation"] == "v" * 40 + "\n" + "v" * 40


def test_labels_named_as_splits_are_told(corpus):
    with pytest.raises(UserError, match="put the label folders first"):
        corpus({"train/1.txt": "a", "testing/1.txt": "b"}, labels="folder")


def test_a_change_of_the_splits_is_another_corpus(corpus, tmp_path):
    files = {"a.txt": "a" * 60, "b.txt": "b" * 60}
    assert texts(corpus(files, splits=("a.txt", "b.txt", "")))["validation"] == "b" * 60
    assert texts(corpus(files, splits=("b.txt", "a.txt", "")))["validation"] == "a" * 60
    (tmp_path / "data" / "b.txt").rename(tmp_path / "data" / "test.txt")
    with pytest.raises(UserError, match="named after splits"):
        corpus({})


def test_lines_of_train_are_read_where_other_splits_are_absent(tmp_path):
    (tmp_path / "train.txt").write_text("one\ntwo\n")
    (tmp_path / "test.txt").write_text("three\n")
    assert list(training_lines(Text(str(tmp_path)))) == ["one", "two"]


def test_tell_takes_no_quadratic_time():
    names = [f"part-{n}/train.txt" for n in range(30_000)]
    assert splits_named([*names, "test.txt"])[-1] == {"test"}


def test_training_says_which_files_went_where_and_evaluation_follows_the_same_rule(
    tmp_path, capsys
):
    letters = "the quick brown fox jumps over the lazy dog " * 9
    files = {"train.txt": letters * 9, "test.txt": letters}
    (tmp_path / "d").mkdir()
    for name, text in files.items():
        (tmp_path / "d" / name).write_text(text)
    (tmp_path / "all.tgz").write_bytes(packed("gz", {**files, "x/valid.txt": letters}))
    sets = [*SMALL, f"data.path={tmp_path / 'd'}", "data.length=16"]
    command = ["--workdir", str(tmp_path / "w")]
    config = ["--config", "configs/sotu/mdlm.py", *command]
    train = [*config, *(word for s in sets for word in ("--set", s))]
    assert cli.guarded("train", train) == 2
    assert "but none after validation" in capsys.readouterr().err and not (tmp_path / "w").exists()
    assert cli.guarded("train", [*train, "--set", 'data.splits=("train.txt","5%","test.txt")']) == 0
    told = "train: train.txt; validation: 5 % of train, from its end; test: test.txt\n"
    assert told in capsys.readouterr().out
    evaluate = [*command, "--num-times", "1", "--split", "validation", "--text"]
    assert cli.guarded("evaluate", [*evaluate, str(tmp_path / "d")]) == 2
    assert "but none after validation" in capsys.readouterr().err
    by_name = ["--set", 'data.splits=("","test.txt","")']
    for text, more, split, size in (
        (tmp_path / "d", by_name, "validation", len(letters)),
        (tmp_path / "all.tgz", [], "validation", len(letters)),
        (tmp_path / "d" / "train.txt", [], "all", len(letters) * 9),
    ):
        assert cli.guarded("evaluate", [*evaluate, str(text), *more]) == 0
        record = capsys.readouterr().out.rpartition("record: ")[2].strip()
        record = json.loads(Path(record).read_text())
        assert (record["split"], record["tokens"]) == (split, size)


def test_one_document_that_cannot_be_cut_says_how(corpus):
    """Splits are cut between documents, so that one of them has no validation text."""
    cut = corpus({"a.txt": "one line\n" * 40}, tokenizer=Bytes(), rows="sentence")
    with pytest.raises(UserError, match=r"it has 1: take lines .*data.document=line"):
        cut.split("validation", 8)
    lines = corpus({}, tokenizer=Bytes(), rows="sentence", document="line")
    with pytest.raises(UserError, match="use more text or a smaller"):
        lines.split("validation", 800)
