"""Pairs of damaged text and text: what is left out, how a text is cut, which files are written."""

import json
from itertools import chain

import pytest

from experiments import make_pairs
from experiments.data import restoration
from experiments.data.restoration import BETWEEN, TASKS, Windows, restoration_pairs, words_of
from experiments.data.text import Text, prepare
from experiments.data.tokenizers import Characters

TEXT = (
    """Fellow-citizens of the Senate: I don't know; "we" agree -- or do we?

On May 5, the Treasury held $3,000.  A été in Québec, """
    + "Incomprehensibilities " * 2
)
WORDS = (TEXT * 20).split()


@pytest.mark.parametrize(
    "task, text, left",
    [
        ("consonants", "The state of A i union", "Th stt f   nn"),
        ("consonants", "É Québec, by 5", " Qbc, by 5"),
        ("plain", 'I don\'t: "We" -- or A-B, é 5%', "i dont we or a b é 5"),
        ("plain", "... !", ""),
    ],
)
def test_a_task_leaves_out_what_it_says(task, text, left):
    assert TASKS[task](text) == left


def test_windows_have_every_word_once_but_longer_ones_and_fill_what_was_drawn():
    windows = Windows(4, 12, seed=3)
    cut = list(windows.of(WORDS, 0))
    assert list(chain.from_iterable(w.split() for w in cut)) == [w for w in WORDS if len(w) <= 12]
    assert max(map(len, cut)) == 12 and len({len(w) for w in cut}) > 5
    assert cut == list(windows.of(WORDS, 0)) != list(windows.of(WORDS, 1))
    assert cut != list(Windows(4, 12, seed=4).of(WORDS, 0))
    exact = list(Windows(7, 7).of(["a"] * 10, 0))  # as many words as fit
    assert exact == ["a a a a", "a a a a", "a a"]
    assert list(Windows(4, 4).of(["ab", "incomprehensible", "c"], 0)) == ["ab", "c"]
    prompts, answers = zip(*restoration_pairs(WORDS, TASKS["plain"], windows, 0), strict=True)
    assert list(answers) == cut and all(
        p.endswith(BETWEEN) and p.count(BETWEEN) == 1 for p in prompts
    )


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_words_are_whole_wherever_the_text_is_read_in_pieces(tmp_path, monkeypatch, chunk):
    (tmp_path / "a.txt").write_text(TEXT)
    corpus = prepare(Text(str(tmp_path / "a.txt"), Characters())).whole("all")
    monkeypatch.setattr(restoration, "CHUNK", chunk)
    told = []
    assert list(words_of(corpus, "all", lambda *far: told.append(far))) == TEXT.split()
    assert told[-1] == (len(TEXT), len(TEXT))


def test_files_are_those_of_a_run_of_pairs_and_the_same_every_time(tmp_path, capsys):
    for split in ("train", "valid", "test"):
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / f"{split}.txt").write_text(TEXT * 20 + split)
    command = ["--task", "plain", "--text", str(tmp_path / "text"), "--longest", "20", "--out"]
    described = make_pairs.main([*command, str(tmp_path / "a")])
    assert "--set data.rows=pair" in capsys.readouterr().out
    make_pairs.main([*command, str(tmp_path / "b")])
    files = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}
    assert set(files) == {"train.jsonl", "valid.jsonl", "test.jsonl", "dataset.json"}
    assert json.loads(files["dataset.json"]) == described and described["end"] == "|"
    assert files["test.jsonl"].splitlines()[-1].endswith(b'test"}')
    length = described["longest_pair"] + 1
    data = Text(str(tmp_path / "a"), Characters(), length, rows="pair", end="|")
    corpus = prepare(data)
    assert corpus.dataset == "restore-plain"
    for split, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        rows = corpus.sequences(split, length, "pair")
        assert len(rows) == described["splits"][name]["pairs"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--task", "plain", "--shortest", "40"], "--shortest 40 is more than --longest 32"),
        (["--task", "plain", "--text", "none.txt"], "--text none.txt does not exist"),
        (["--task", "plain", "--text", "few.txt"], "no word|tokens, fewer"),
        (["--task", "plain", "--text", "small.txt"], "leaves out nothing of small.txt"),
        (["--task", "plain", "--out", "full"], "--out full exists"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    tmp_path, monkeypatch, rejected, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.txt").write_text("word")
    (tmp_path / "small.txt").write_text("small letters alone " * 20)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    said = rejected(make_pairs.main, ["--out", "new", *options])
    assert any(part in said for part in message.split("|")), said
    assert sorted(tmp_path.rglob("*")) == before
