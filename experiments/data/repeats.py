"""Passages that occur more than once, within a text and between texts, found exactly.

A passage is a window of `least` tokens in a row. Windows are numbered by a hash, equal ones brought
together by sorting, and compared: where two that are not equal share a hash, all is done again with
another one. So nothing is missed and nothing is guessed. Of a text of n tokens this takes time in
proportion to n and a few bytes a token; windows are sorted a part at a time, those with the same last
digits of their hash.

A token is in a repeated passage where any window that covers it occurs elsewhere, so longer passages are
found whole. Removing all but the first occurrence is the exact deduplication of Lee et al.
(arXiv 2107.06499).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_SORTED = 1 << 24  # windows at a time
_CHUNK = 1 << 22  # tokens at a time
_COMPARED = 1 << 22  # tokens of windows at a time
MOST_TEXTS = 16


@dataclass(frozen=True)
class Repeats:
    """least: tokens of a passage; ends: where each of the texts ends in all, (T,); elsewhere: uint16
    (n,), bit t of a position says whether the window from there also occurs in text t, of its own text a
    second time; before: bool (n,), whether it occurs earlier in its own text; most: how often the most
    frequent window occurs, and where it does."""

    least: int
    ends: np.ndarray
    elsewhere: np.ndarray
    before: np.ndarray
    most: tuple[int, int]

    def within(self, text: int) -> slice:
        """The positions of a text in all."""
        return slice(int(self.ends[text - 1]) if text else 0, int(self.ends[text]))

    def shared(self, text: int, other: int) -> np.ndarray:
        """bool (n,): which tokens of a text are in a passage that also occurs in the other, or a second
        time in the same."""
        return covered(self.elsewhere[self.within(text)] >> other & 1 > 0, self.least)

    def superfluous(self, text: int, kept: Sequence[int]) -> np.ndarray:
        """bool (n,): which tokens of a text are in a passage that occurs earlier in it, or in one of the
        texts `kept`."""
        bits = np.uint16(sum(1 << other for other in kept))
        here = self.within(text)
        return covered(self.before[here] | (self.elsewhere[here] & bits > 0), self.least)


def covered(starts: np.ndarray, length: int) -> np.ndarray:
    """bool (n,): what the windows of `length` from where `starts` (n,) is True cover."""
    steps = np.zeros(len(starts) + length, np.int32)
    steps[: len(starts)] += starts
    steps[length:] -= starts
    return np.cumsum(steps[: len(starts)]) > 0


def find_repeats(
    texts: Sequence[np.ndarray],
    least: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Repeats:
    """The repeats of at least `least` tokens within and between texts, each tokens (n,)."""
    if len(texts) > MOST_TEXTS:
        raise ValueError(f"{len(texts)} texts; at most {MOST_TEXTS} are compared")
    tokens = np.concatenate(texts)
    ends = np.cumsum([len(text) for text in texts])
    seed = 0
    while (found := _find(tokens, ends, least, seed, progress)) is None:
        seed += 1
    return found


def _find(tokens, ends, least: int, seed: int, progress) -> Repeats | None:
    """None where two windows that are not equal have the same hash."""
    elsewhere, before = np.zeros(len(tokens), np.uint16), np.zeros(len(tokens), bool)
    most = (1, 0)
    parts = 1 << max(0, int(np.ceil(np.log2(len(tokens) / _SORTED)))) if len(tokens) else 1
    for part in range(parts):
        keys, at = _hashed(tokens, ends, least, seed, part, parts)
        order = np.argsort(keys, kind="stable")  # at rises among equal ones
        keys, at = keys[order], at[order]
        progress(part + 1, parts)
        if not len(keys):
            continue
        same = keys[1:] == keys[:-1]
        repeated = np.append(same, False) | np.append(False, same)
        new, at = ~np.append(False, same)[repeated], at[repeated]
        if not len(at):
            continue
        if not _are_equal(tokens, at[:-1][~new[1:]], at[1:][~new[1:]], least):
            return None
        text = np.searchsorted(ends, at, side="right").astype(np.uint16)
        first, run = np.flatnonzero(new), np.cumsum(new) - 1
        bits = np.uint16(1) << text
        present = np.bitwise_or.reduceat(bits, first)[run]
        in_own = np.append(False, ~new[1:] & (text[1:] == text[:-1]))  # its text has it before
        twice = in_own | np.append(in_own[1:], False)
        elsewhere[at] = np.where(twice, present, present & ~bits)
        before[at] = in_own
        counts = np.diff(np.append(first, len(at)))
        if counts.max() > most[0]:
            most = int(counts.max()), int(at[first[counts.argmax()]])
    return Repeats(least, ends, elsewhere, before, most)


def _hashed(tokens, ends, least: int, seed: int, part: int, parts: int):
    """(hashes uint64, positions) of the windows whose hash ends in the digits `part`."""
    keys, places = [], []
    for start, stop in _chunks(ends, least):
        hashes = _hashes(tokens[start : stop + least - 1], least, seed)
        chosen = np.flatnonzero(hashes & np.uint64(parts - 1) == part)
        keys.append(hashes[chosen])
        places.append(chosen + start)
    if not keys:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    return np.concatenate(keys), np.concatenate(places)


def _chunks(ends, least: int) -> Iterator[tuple[int, int]]:
    """The positions (first, one after the last) of windows that lie within a text, some at a time."""
    begin = 0
    for end in ends.tolist():
        for start in range(begin, end - least + 1, _CHUNK):
            yield start, min(start + _CHUNK, end - least + 1)
        begin = end


def _hashes(tokens: np.ndarray, least: int, seed: int) -> np.ndarray:
    """uint64 (n - least + 1,): sum over j of value(token j) base^(least - 1 - j), mixed, of windows, by
    doubling: H(a + b) = H(a) base^b + H(b) where a stands before b."""
    random = np.random.default_rng(seed)
    base = int(random.integers(1 << 60, 1 << 62)) | 1
    single = _mixed(tokens.astype(np.uint64) + np.uint64(seed + 1))
    count = len(tokens) - least + 1
    done, hashes = 0, np.zeros(len(tokens) + 1, np.uint64)  # of the first `done` tokens of a window
    power, size = single, 1  # of windows of a power of two
    while True:
        if least & size:
            joined = hashes[: len(power)] * np.uint64(pow(base, size, 1 << 64))
            ahead = power[done:]
            hashes = joined[: len(ahead)] + ahead
            done += size
        size *= 2
        if size > least:
            return _mixed(hashes[:count])
        half = size // 2
        power = power[:-half] * np.uint64(pow(base, half, 1 << 64)) + power[half:]


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _are_equal(tokens, first, second, least: int) -> bool:
    """Whether the windows from `first` (m,) are those from `second`."""
    windows = np.lib.stride_tricks.sliding_window_view(tokens, least)
    some = max(1, _COMPARED // least)
    return all(
        np.array_equal(windows[first[k : k + some]], windows[second[k : k + some]])
        for k in range(0, len(first), some)
    )
