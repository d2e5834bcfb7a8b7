"""Measures of texts, each on texts counted by hand, and overlap against a plain search."""

import random

import numpy as np
import pytest

from experiments.sample_metrics import occurrences
from experiments.sample_metrics.occurrences import match_lengths, word_match_lengths
from experiments.sample_metrics.record import overlaps
from experiments.sample_metrics.text_measures import (
    distinct,
    inner_words,
    mean_entropy,
    ngram_entropy,
)


def test_entropy_is_that_of_ngrams_within_texts():
    assert ngram_entropy(["aabb", "ab"], 1) == 1
    assert ngram_entropy(["aabb", "ab"], 2) == pytest.approx(1.5)  # aa ab bb, ab: 1/4 1/2 1/4
    assert ngram_entropy(["aaab", "bcd"], 3) == pytest.approx(np.log2(3))  # aaa aab, bcd
    assert ngram_entropy(["abcd"], 1) == 2 and ngram_entropy(["aaaa"], 1) == 0
    assert ngram_entropy(["é\U0001f600"], 1) == 1 and np.isnan(ngram_entropy(["ab"], 3))
    assert mean_entropy(["aaaa", "abab"]) == 0.5  # and ngram_entropy of both is 0.81


def test_distinct_ngrams_of_words_do_not_cross_texts():
    words = [inner_words("x the cat the cat y"), inner_words("x the dog y")]
    assert words == [["the", "cat", "the", "cat"], ["the", "dog"]]
    assert distinct(words, 1) == 3 / 6
    assert distinct(words, 2) == 3 / 4  # the cat, cat the, the cat; the dog
    assert distinct(words, 3) == 1 and np.isnan(distinct(words, 5))
    assert inner_words("one") == inner_words("one two") == []


def split(text, rng):
    """The text in pieces of random lengths, also empty ones."""
    cuts = sorted(rng.choices(range(len(text) + 1), k=4))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.parametrize("table, kept", [(1 << 22, 24), (0, 24), (0, 2)])
def test_match_lengths_are_those_of_a_plain_search(table, kept, monkeypatch):
    monkeypatch.setattr(occurrences, "_TABLE", table)
    monkeypatch.setattr(occurrences, "_KEPT", kept)
    rng = random.Random(0)
    for symbols in ("ab", "abcdé\U0001f600"):
        for _ in range(10):
            text = "".join(rng.choices(symbols + "z", k=60))  # z is in no row
            start = rng.randrange(40)
            rows = ["".join(rng.choices(symbols + "y", k=k)) for k in (1, 12, 5)]
            rows.append(text[start : start + 20])
            found = match_lengths(rows, split(text, rng))
            for row, lengths in zip(rows, found, strict=True):
                assert len(lengths) == len(row)
                for i, length in enumerate(lengths):
                    assert row[i : i + length] in text
                    assert i + length == len(row) or row[i : i + length + 1] not in text


def test_word_matches_are_those_of_a_plain_search():
    rng = random.Random(0)
    for _ in range(20):
        words = rng.choices(["a", "ab", "b", "other"], k=40)
        rows = [rng.choices(["a", "ab", "b", "new"], k=k) for k in (7, 0, 2)]
        found = word_match_lengths(rows, split(" ".join(words), rng), 3)
        for row, lengths in zip(rows, found, strict=True):
            for i, length in enumerate(lengths):
                longest = min(3, len(row) - i)
                assert length == max(
                    k
                    for k in range(longest + 1)
                    if any(words[j : j + k] == row[i : i + k] for j in range(len(words)))
                )
            assert len(lengths) == len(row)


def test_overlap_counts_words_ngrams_and_the_longest_match():
    training = "we the people of the united states in order to form"
    copied, new = "x the people of the united y", "x the people zz the united y"
    row, other = overlaps([[copied], [new, "qqq"]], lambda: iter([training]), 3)
    assert row["words_in_training_text"] == row["ngrams_in_training_text"] == 1
    assert row["ngram_novelty"] == 0
    assert row["longest_match_characters"] == len(" the people of the united ")
    assert other["words_in_training_text"] == 4 / 5 and other["ngrams_in_training_text"] == 0
    assert other["longest_match_characters"] == len(" the people ")
    assert other["mean_longest_match_characters"] == len(" the people ") / 2
