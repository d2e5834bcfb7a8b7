"""Repeated passages: against a search of all windows, in reports and in texts without them."""

from collections import Counter

import numpy as np
import pytest

from experiments import cli
from experiments.data import repeats
from experiments.data.repeats import covered, find_repeats


def windows(text, size):
    return [text[i : i + size].tobytes() for i in range(len(text) - size + 1)]


def by_search(text, size, chosen):
    """Which tokens the windows cover that `chosen` takes, of their number and content."""
    of = np.zeros(len(text), bool)
    for number, window in enumerate(windows(text, size)):
        if chosen(number, window):
            of[number : number + size] = True
    return of


@pytest.fixture(scope="module")
def texts():
    random = np.random.default_rng(0)
    return [
        random.integers(0, 3, size).astype(np.uint8) for size in (300, 7, 120, 0, 65)
    ]  # 65: a chunk of one


@pytest.mark.parametrize("size", [1, 2, 3, 6, 8, 13])
def test_repeats_are_those_that_a_search_of_all_windows_finds(size, texts, monkeypatch):
    monkeypatch.setattr(repeats, "_SORTED", 50)  # so that there are several parts
    monkeypatch.setattr(repeats, "_CHUNK", 64)
    found = find_repeats(texts, size)
    counts = [Counter(windows(text, size)) for text in texts]
    for a, text in enumerate(texts):
        for b in range(len(texts)):
            expected = by_search(text, size, lambda n, w, a=a, b=b: counts[b][w] > (a == b))
            np.testing.assert_array_equal(found.shared(a, b), expected)
    of_first = windows(texts[0], size)
    expected = by_search(texts[0], size, lambda n, w: w in of_first[:n] or w in counts[2])
    np.testing.assert_array_equal(found.superfluous(0, [2]), expected)
    every = sum(counts, Counter())
    assert found.most[0] == every.most_common(1)[0][1]
    start = found.most[1]
    if found.most[0] > 1:
        assert every[np.concatenate(texts)[start : start + size].tobytes()] == found.most[0]


def test_windows_of_one_hash_that_differ_are_told_apart(texts, monkeypatch):
    right = find_repeats(texts, 6)
    hashes, tried = repeats._hashes, []

    def poor(tokens, least, seed):
        tried.append(seed)
        return hashes(tokens, least, seed) % np.uint64(100 if seed == 0 else 2**63)

    monkeypatch.setattr(repeats, "_hashes", poor)
    again = find_repeats(texts, 6)
    assert set(tried) == {0, 1}
    np.testing.assert_array_equal(again.elsewhere, right.elsewhere)


def test_windows_cover_what_they_begin():
    assert covered(np.array([0, 1, 0, 0, 0, 1], bool), 3).tolist() == [0, 1, 1, 1, 0, 1]


TEXT = "the first sentence is here and is said once . "
AGAIN = "this long passage is said again and again ; "


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DDLM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a").mkdir()
    for name, text in (
        ("train", TEXT + AGAIN + "between >" + AGAIN + "in test : " + TEXT[::-1]),
        ("valid", "nothing of it " + "0123456789" * 3),
        ("test", TEXT[::-1] + "and other words"),
    ):
        (tmp_path / "a" / f"{name}.txt").write_text(text)
    return tmp_path


def run(*words):
    return cli.guarded("duplicates", list(map(str, words)))


def test_a_report_of_splits_and_a_text_without_repeats(folder, capsys):
    out = folder / "new"
    assert run(folder / "a", "--least", 30, "--out", out) == 0
    printed = capsys.readouterr().out
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in printed.splitlines()[2:5]]
    train = "".join((folder / "a" / "train.txt").read_text())
    own, both = 2 * len(AGAIN), len(TEXT)
    assert rows[0][2] == f"{100 * own / len(train):.2f} %" and rows[0][3] == "0.00 %"
    assert abs(float(rows[0][4].split()[0]) - 100 * both / len(train)) < 1  # and what is around
    assert "most frequent, 2 times: " in printed
    kept = (out / "train.txt").read_text()
    assert kept == (TEXT + AGAIN + "between >" + "in test : ")
    for name in ("valid", "test"):
        assert (out / f"{name}.txt").read_bytes() == (folder / "a" / f"{name}.txt").read_bytes()
    assert run(out, "--least", 30) == 0
    assert "no passage of 30 characters occurs twice" in capsys.readouterr().out


def test_of_several_texts_the_first_keeps_what_they_share(folder, capsys):
    (folder / "b").mkdir()
    for name, text in (("train", "own words ; " + AGAIN), ("valid", "abc"), ("test", "xyz")):
        (folder / "b" / f"{name}.txt").write_text(text)
    assert run(folder / "a", folder / "b", "--least", 30, "--out", folder / "new") == 0
    assert "| b train" in capsys.readouterr().out
    assert AGAIN in (folder / "new" / "a" / "train.txt").read_text()
    assert (
        folder / "new" / "b" / "train.txt"
    ).read_text() == "own words ;"  # " " is before it in a too


def test_mistakes_are_one_line_and_nothing_is_written(folder, capsys):
    for words, message in (
        ([folder / "none"], "does not exist"),
        ([folder / "a", "--out", folder / "a"], "exists; choose another folder"),
        ([folder / "a", "--least", "0"], "0 must be"),
    ):
        assert run(*words) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and message in error
