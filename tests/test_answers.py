"""Answers beside their references: measures with errors, the candidate most like the others, lengths."""

import sys
from itertools import product
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from experiments.answers import measures as of_measures
from experiments.answers.lengths import (
    answer_sizes,
    likeliest_lengths,
    make_questions,
    prompt_sizes,
)
from experiments.answers.measures import difference, measures
from experiments.answers.similarity import SIMILARITIES, character_edits, most_alike, word_edits
from experiments.data.pairs import PairRows
from experiments.data.text import Text
from experiments.data.tokenizers import Characters
from experiments.errors import UserError


def edits(a, b):
    """The least number of edits, by trying all."""
    if not a or not b:
        return len(a) + len(b)
    replaced = edits(a[1:], b[1:]) + (a[0] != b[0])
    return min(replaced, edits(a[1:], b) + 1, edits(a, b[1:]) + 1)


def test_edits_are_the_fewest():
    texts = ["".join(t) for n in range(4) for t in product("ab", repeat=n)]
    assert all(character_edits(a, b) == edits(a, b) for a, b in product(texts, texts))
    assert word_edits("the state  of", "a state of it") == 2


def test_the_most_alike_has_the_highest_mean_similarity_to_the_others():
    near = SIMILARITIES["characters"]()
    rng = np.random.default_rng(0)
    for count in (1, 2, 5):
        answers = ["".join(rng.choice(list("abc"), 4)) for _ in range(count)]
        mean = [
            np.mean([near(a, b) for j, b in enumerate(answers) if j != i] or [0])
            for i, a in enumerate(answers)
        ]
        assert most_alike(answers, near) == int(np.argmax(mean))
    assert most_alike(["ab", "cd", "ab", "cd", "cd"], SIMILARITIES["exact"]()) == 1
    assert most_alike(["a b c", "a b d", "x y c"], SIMILARITIES["words"]()) == 0
    # The most frequent is not the one nearest to all: four others agree in most letters.
    answers = ["zzzz", "zzzz", "abcd", "abce", "abcf", "abcg"]
    assert most_alike(answers, SIMILARITIES["exact"]()) == 0 and most_alike(answers, near) == 2


@pytest.fixture
def without_sacrebleu(monkeypatch):
    monkeypatch.setattr(of_measures, "find_spec", lambda name: None)


def test_measures_of_a_few_answers_are_those_by_hand(without_sacrebleu):
    found = measures([["ab cd"], ["ab"], ["x"]], ["ab cd", "ab c", "yz"])
    assert {name: of["value"] for name, of in found.items()} == pytest.approx(
        {"exact": 1 / 3, "character_error_rate": 4 / 11, "word_error_rate": 2 / 5}
    )
    assert found["exact"]["standard_error"] == pytest.approx(1 / 3)
    r = 4 / 11
    left = np.array([0 - r * 5, 2 - r * 4, 2 - r * 2])
    error = np.sqrt((left**2).sum() * 3 / 2) / 11
    assert found["character_error_rate"]["standard_error"] == pytest.approx(error)
    several = measures([["ab", "xb"], ["c", "c"]], ["ab", "d"])
    assert several["exact"]["value"] == 0.25
    assert several["character_error_rate"]["value"] == pytest.approx(1.5 / 3)
    assert measures([["a"]], ["b"])["exact"] == {"value": 0.0, "standard_error": None}


def test_errors_are_the_spread_over_many_sets_and_pairs_lessen_that_of_a_gain(without_sacrebleu):
    rng = np.random.default_rng(0)

    def drawn(prompts=30):
        sizes = rng.integers(1, 9, prompts)
        hard = rng.random(prompts)
        rows = [
            [
                "".join("b" if rng.random() < hard[n] * w else "a" for _ in range(size))
                for w in (0.9, 0.7)
            ]
            for n, size in enumerate(sizes)
        ]
        return rows, ["a" * size for size in sizes]

    name, found = "character_error_rate", []
    for _ in range(200):
        rows, right = drawn()
        first, second = [[a] for a, _ in rows], [[b] for _, b in rows]
        found.append((measures(first, right)[name], difference(second, first, right)[name]))
    for one in zip(*found, strict=True):
        spread = np.std([of["value"] for of in one])
        assert np.mean([of["standard_error"] for of in one]) == pytest.approx(spread, rel=0.12)
    value = [of["value"] for of in next(zip(*found, strict=True))]
    gains = [gain["value"] for _, gain in found]
    assert np.mean(gains) == pytest.approx(-0.2 / 0.9 * np.mean(value), rel=0.05)


@pytest.fixture
def shares(monkeypatch):
    """In place of sacrebleu: a score that is the percentage of right answers, so a mean."""

    class Share:
        def __init__(self, effective_order=False):
            pass

        def corpus_score(self, answers, references):
            return SimpleNamespace(score=100 * np.mean(np.array(answers) == references[0]))

        def sentence_score(self, answer, references):
            return SimpleNamespace(score=100.0 * (answer == references[0]))

    names = ("sacrebleu", "sacrebleu.metrics", "sacrebleu.metrics.bleu", "sacrebleu.metrics.chrf")
    for name in names:
        module = ModuleType(name)
        module.__spec__ = SimpleNamespace()
        module.BLEU = module.CHRF = Share
        monkeypatch.setitem(sys.modules, name, module)


def test_scores_of_a_whole_set_have_the_error_of_a_jackknife(shares):
    right = ["a"] * 20
    first = [["a"] if n % 3 else ["b"] for n in range(20)]
    for rows, others in ((first, None), ([["a"]] * 20, first)):
        found = difference(rows, others, right)
        for part in ("value", "standard_error"):  # of a mean it is exactly that error
            assert found["bleu"][part] == pytest.approx(100 * found["exact"][part])
    assert measures([["a", "b"], ["a", "a"]], ["a", "a"])["chrf"]["value"] == 75
    assert measures([["a"]], ["a"])["bleu"]["standard_error"] is None
    assert most_alike(["a", "b", "b"], SIMILARITIES["bleu"]()) == 1


def test_bleu_needs_its_package(monkeypatch):
    monkeypatch.setattr("experiments.errors.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--similarity bleu: needs the package sacrebleu"):
        SIMILARITIES["bleu"]()


def rows_of(pairs, end):
    """Rows of 8 tokens of (prompt, answer) pairs in the letters a to e, e the end."""
    texts = [prompt + answer + "e" * (end is not None) for prompt, answer in pairs]
    starts = np.cumsum([0, *map(len, texts)])
    prompts = np.array([len(prompt) for prompt, _ in pairs])
    tokens = np.array([ord(c) - 97 for c in "".join(texts)], np.uint8)
    return PairRows(tokens, 8, starts[:-1], starts[1:], starts[:-1], starts[:-1] + prompts, end)


PAIRS = [("ab", "cd"), ("abc", "d"), ("", "abcd"), ("ab", "d"), ("ba", "dd"), ("aaa", "bb")]


@pytest.mark.parametrize("end", ["e", ""])
def test_lengths_are_given_by_ends_or_by_padding(end):
    data = Text("f", Characters("abcde"), 8, rows="pair", end=end)
    training = rows_of(PAIRS, 4 if end else None)
    rows = training.chosen(np.array([0, 2]))
    assert prompt_sizes(rows).tolist() == [2, 0] and answer_sizes(rows).tolist() == [2, 4]
    for length, candidates, sizes in (
        ("reference", 3, [[2, 4]]),
        (3, 3, [[3, 3]]),
        (7, 1, [[6, 7]]),
        ("predicted", 3, [[2, 2], [1, 1], [2, 2]]),  # of all pairs, as they are few
    ):
        asked = make_questions(data, rows, training, length, candidates, 2)
        stops = asked.starts.reshape(-1, 2) + sizes
        places = np.arange(8)[None]
        for known, start, stop in zip(asked.known, asked.starts, stops.reshape(-1), strict=True):
            blank = (places[0] >= start) & (places[0] < stop)
            np.testing.assert_array_equal(known[:start] >= 0, True)
            np.testing.assert_array_equal(known[blank], -1)
            np.testing.assert_array_equal(known[stop:], 4 if end else -1)
        assert (asked.segments is None) == bool(end)
        if not end:
            np.testing.assert_array_equal(asked.segments, places < stops.reshape(-1, 1))
        drawn = np.where(asked.known < 0, 1, asked.known)
        answers = [asked.answer(data, n, x0) for n, x0 in enumerate(drawn)]
        assert [len(a) for a in answers] == (stops.reshape(-1) - asked.starts).tolist()
        assert all((answer == 1).all() for answer in answers)


def test_an_end_that_is_drawn_ends_the_answer_and_is_needed():
    data = Text("f", Characters("abcde"), 8, rows="pair", end="e")
    rows = rows_of(PAIRS, 4)
    asked = make_questions(data, rows, None, "end", 5, 1)
    assert len(asked.known) == len(rows) and (asked.known[2] == -1).all()
    x0 = np.array([0, 1, 2, 4, 3, 4, 0, 0])
    assert asked.answer(data, 0, x0).tolist() == [2]
    assert asked.answer(data, 6, np.array([0, 1, 2, 3, 2, 3, 2, 3])).tolist() == [2, 3] * 3
    with pytest.raises(UserError, match="--answer-length: long: expected a number or one of end"):
        make_questions(data, rows, None, "long", 1, 1)
    with pytest.raises(UserError, match="--answer-length: -1: expected a number"):
        make_questions(data, rows, None, -1, 1, 1)
    padded = Text("f", Characters("abcde"), 8, rows="pair")
    with pytest.raises(UserError, match=r"no data\.end, .*--answer-length predicted, reference or"):
        make_questions(padded, rows_of(PAIRS, None), None, "end", 1, 1)


def test_the_likeliest_lengths_are_those_after_prompts_of_this_length_or_near():
    prompts = np.repeat([3, 4, 9], [60, 40, 20])
    answers = np.concatenate([np.repeat([5, 7, 6], [10, 30, 20]), np.repeat(8, 40), [1] * 20])
    assert likeliest_lengths(prompts, answers, 3).tolist() == [7, 6, 5]
    assert likeliest_lengths(prompts, answers, 4).tolist() == [8, 7, 6, 5]  # 40 are too few
    assert likeliest_lengths(prompts, answers, 8).tolist() == [8, 1]
    assert likeliest_lengths(np.array([1, 1]), np.array([5, 3]), 1).tolist() == [3, 5]
