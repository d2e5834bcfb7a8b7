"""Which texts are trained on, validated on and tested on: as `data.splits` says, as their names tell, or
by shares of one text. What is not clear is a UserError that says how to name splits; nothing is guessed.

A word of a name is a run of letters. A split word is train or training; valid, validation, val, dev or
the like; test or testing. ("eval" is none: some mean validation by it, some test.) What all names have
in common tells nothing: of my_test_corpus.{train,valid,test}.txt "test" is left out once. Folders count
as names of all that is in them, archives as folders; and a folder or file named as a split and nothing
else, such as train/ or train-00001-of-00010.txt, goes before a split word among others in the same path,
as in train/test-driven.txt.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import reduce
from glob import escape
from itertools import accumulate
from operator import and_
from pathlib import Path

from experiments.data.prepared import SPLITS
from experiments.data.reading import Source
from experiments.errors import UserError

DATASET = "dataset.json"  # what experiments.prepare says of a folder
_NAMES = {
    "train": ("train", "training"),
    "validation": ("valid", "validation", "validate", "val", "dev", "devel", "development"),
    "test": ("test", "testing"),
}
WORDS = {word: split for split, words in _NAMES.items() for word in words}
_SHARE = re.compile(r"(\d+(?:\.\d+)?) *%")
_SHARES = {"validation": 5.0, "test": 5.0}
_SHOWN = 3  # names of a list that may be long
_ALL = '("*", "5%", "5%")'


@dataclass(frozen=True)
class Plan:
    """parts: the sources of each split, in order; shares: how many percent of train's text, from its
    end, are validation and test instead; one: whether the text has no splits but those cut of it; words:
    all this in words."""

    parts: dict[str, list[Source]]
    words: str
    shares: dict[str, float] = field(default_factory=dict)
    one: bool = False

    def ends(self, size: int) -> tuple[int, int, int]:
        """Where train, what is validation and what is test end in `size` tokens of train's text."""
        validation, test = (self.shares.get(name, 0) for name in SPLITS[1:])
        return int((100 - validation - test) / 100 * size), int((100 - test) / 100 * size), size


def share_of(pattern: str) -> float | None:
    """How many percent of train "5%" asks for; None for a pattern of names."""
    matched = _SHARE.fullmatch(pattern.strip())
    return float(matched[1]) if matched else None


def check_splits(splits: tuple[str, str, str]) -> None:
    """Nothing; ValueError for a data.splits that no text could follow."""
    shares = [share_of(pattern) or 0 for pattern in splits]
    form = f'; give three, such as ("train.txt", "5%", "test.txt") or {_ALL}'
    if share_of(splits[0]) is not None:
        raise ValueError(
            f"Text.splits = {splits}: train is a pattern of names, not a share of itself{form}"
        )
    if not any(splits) or (any(shares) and not splits[0]):
        raise ValueError(f"Text.splits = {splits} selects no text{form}")
    if any(share_of(p) == 0 for p in splits) or sum(shares) >= 100:
        raise ValueError(
            f"Text.splits = {splits}: shares must be above 0 and leave some train{form}"
        )


def plan_splits(
    root: Path,
    sources: Sequence[Source],
    splits: tuple[str, str, str] | None,
    *,
    below: int = 0,
    lacking: bool = False,
    cut: str = "into 90, 5 and 5 %",
) -> Plan:
    """What becomes of the sources below `root`, or in that file. below: how many folders on top
    tell no splits (one of a label); lacking: whether splits may be absent, as in what prepare wrote;
    cut: how a text without splits is cut, in words."""
    is_file = [s.path == root and s.member is None for s in sources]
    about = [s.name.split("/")[-1] == DATASET for s in sources]
    texts = [s for s, a, b in zip(sources, is_file, about, strict=True) if a or not b]
    lacking = lacking or len(texts) < len(sources)
    if not texts:
        raise UserError(f"data.path {root} has no text")
    if splits is not None:
        return _by_pattern(root, texts, splits)
    alone = len(sources) == 1 and texts[0].path == root
    names = ["/".join(source.name.split("/")[below:]) for source in texts]
    named = [set()] if alone else splits_named(names)
    if not any(named):
        return Plan({"train": texts}, f"{_some(texts)} cut {cut}", _SHARES, one=True)
    parts = {name: [s for s, t in zip(texts, named, strict=True) if t == {name}] for name in SPLITS}
    parts = {name: of for name, of in parts.items() if of}
    _check_named(root, texts, named, parts, lacking)
    return Plan(parts, _in_words(parts))


def splits_named(names: Sequence[str]) -> list[set[str]]:
    """The splits that each of the names tells: none, one, or more where it is not clear."""
    counts = (Counter(_words(name)) for name in names)
    for common in (reduce(and_, counts, Counter(_words(names[0]))), Counter()):
        splits = [_splits_named_by(name, common) for name in names]
        if any(splits):
            break
    return splits


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.lower())


def _splits_named_by(name: str, common: Counter) -> set[str]:
    """The splits that the name tells by its words, but for those that it has in common with all."""
    left, alone, among = Counter(common), set(), set()
    for part in name.split("/"):
        new = set()
        for word in _words(part):
            if left[word]:
                left[word] -= 1
            elif word in WORDS:
                new.add(WORDS[word])
        among |= new
        before = re.sub(r"\d+-of-\d+", "", part.partition(".")[0])
        if len({WORDS.get(word, "") for word in _words(before)} | new) == 1:
            alone |= new
    return alone or among


def _check_named(root, sources, named, parts, lacking) -> None:
    """UserError where the names leave something open."""
    unclear = [(s, t) for s, t in zip(sources, named, strict=True) if len(t) > 1]
    others = [s for s, t in zip(sources, named, strict=True) if not t]
    missing = [name for name in SPLITS if name not in parts]
    if unclear:
        source, splits = unclear[0]
        what = f"{source.name} is named after {' and '.join(sorted(splits))}"
    elif others:
        what = f"some files are named after splits ({_in_words(parts)}) and {_some(others)} not"
    elif missing and not lacking:
        what = f"files are named after splits ({_in_words(parts)}), but none after {missing[0]}"
    else:
        return
    example = tuple("|".join(escape(s.name) for s in parts.get(n, ())) for n in SPLITS)
    if not all(example) or max(map(len, example)) > 60:
        example = tuple(
            (e if len(e) <= 60 else f"*{n[:5]}*") or ("5%" if n != "train" else "")
            for n, e in zip(SPLITS, example, strict=True)
        )
    if not example[0]:
        example = tuple("" if share_of(e) else e for e in example)
    quoted = ", ".join(f'"{e}"' for e in example)
    raise UserError(
        f"data.path {root}: {what}; set train, validation and test by name or as a share of "
        f"train, such as --set 'data.splits=({quoted})', or split all of it: --set "
        f"'data.splits={_ALL}'"
    )


def _by_pattern(root, sources, splits) -> Plan:
    parts, shares, taken = {}, {}, {}
    for name, patterns in zip(SPLITS, splits, strict=True):
        share = share_of(patterns)
        if share is not None:
            shares[name] = share
            continue
        for pattern in filter(None, (p.strip() for p in patterns.split("|"))):
            of = [source for source in sources if _matches(source.name, pattern)]
            if not of:
                raise UserError(
                    f"data.splits: no file matches {pattern!r} in data.path {root}, which has "
                    f"{_some(sources)}"
                )
            for source in of:
                if taken.setdefault(source, name) != name:
                    raise UserError(
                        f"data.splits: {source.name} is in {taken[source]} and in {name}; give "
                        "patterns that do not overlap"
                    )
        of = [source for source in sources if taken.get(source) == name]
        parts |= {name: of} if of else {}
    out = [source for source in sources if source not in taken]
    words = _in_words(parts, shares) + (f"; left out: {_some(out)}" if out else "")
    return Plan(parts, words, shares)


def _matches(name: str, pattern: str) -> bool:
    """Whether the pattern, as of a shell, is that of a file, with or without its folders, or of a folder
    that it is in."""
    parts = name.split("/")
    above = accumulate(parts, "{}/{}".format)
    return any(fnmatchcase(part, pattern.rstrip("/")) for part in [parts[-1], *above])


def _in_words(parts: dict[str, list[Source]], shares: dict[str, float] = {}) -> str:  # noqa: B006
    words = {name: _some(of) for name, of in parts.items()}
    words |= {name: f"{share:g} % of train, from its end" for name, share in shares.items()}
    return "; ".join(f"{name}: {words[name]}" for name in SPLITS if name in words)


def _some(sources: Sequence[Source]) -> str:
    """The names, or the first of many."""
    names = [source.name for source in sources]
    if len(names) <= _SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[: _SHOWN - 1])} and {len(names) - _SHOWN + 1} more"
