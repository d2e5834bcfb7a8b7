"""Pairs of a damaged text and the text: what was left out of it is to be restored.

A text is cut into windows of whole words, one after another. The prompt is a window without its vowels
("consonants") or in small letters without punctuation ("plain"), and a line break, which no window has;
the answer is the window. The number of words stays known: of a word of vowels alone, the spaces around
it are left.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from experiments.data.corpus import Corpus
from experiments.data.reading import CHUNK

BETWEEN = "\n"  # the end of a prompt


def consonants(text: str) -> str:
    """The text without a, e, i, o, u, with or without accents."""
    return "".join(c for c in text if unicodedata.normalize("NFD", c)[0] not in "aeiouAEIOU")


def plain(text: str) -> str:
    """The text in small letters, without apostrophes, a space for other characters that are neither
    letters nor digits."""
    kept = "".join(c if c.isalnum() else " " for c in text.lower() if c not in "'’")
    return " ".join(kept.split())


TASKS: dict[str, Callable[[str], str]] = {"consonants": consonants, "plain": plain}


@dataclass(frozen=True)
class Windows:
    """How a text is cut. shortest, longest: characters of a window, each from the draws of `seed`; one
    has as many words as its number allows, at least one."""

    shortest: int = 8
    longest: int = 32
    seed: int = 0

    def of(self, words: Iterable[str], number: int) -> Iterator[str]:
        """The windows of text `number`, each words with a space between; a word longer than `longest` is
        left out, and no window goes over it."""
        draws = np.random.default_rng([self.seed, number])
        window, room = [], 0
        for word in words:
            if window and len(word) >= room:
                yield " ".join(window)
                window = []
            if len(word) > self.longest:
                continue
            if window:
                room -= 1
            else:
                room = int(draws.integers(self.shortest, self.longest, endpoint=True))
            window.append(word)
            room -= len(word)
        if window:
            yield " ".join(window)


def words_of(
    corpus: Corpus, split: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[str]:
    """The words of a split in order, what white space parts; progress(tokens read, all of them)."""
    tokens, rest = corpus.split(split, 1), ""
    for start in range(0, len(tokens), CHUNK):
        text = rest + corpus.tokenizer.decode(tokens[start : start + CHUNK])
        words = text.split()
        rest = words.pop() if words and not text[-1].isspace() else ""
        yield from words
        progress(min(start + CHUNK, len(tokens)), len(tokens))
    if rest:
        yield rest


def restoration_pairs(
    words: Iterable[str], damage: Callable[[str], str], windows: Windows, number: int
) -> Iterator[tuple[str, str]]:
    """(prompt, answer) of each window of text `number`."""
    for window in windows.of(words, number):
        yield damage(window) + BETWEEN, window
