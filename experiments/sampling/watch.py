"""Plays in the terminal how samples came about, from the record of `experiments.sampling.trace_page`."""

import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
from rich.console import Console
from rich.containers import Lines
from rich.live import Live
from rich.text import Text

_SECONDS = 6  # of a sample, but no frame stays longer than a fifth
MASK = "·"
STYLES = {
    "masked": "dim",
    "revealed": "reverse",
    "changed": "reverse yellow",
    "given": "italic",
    "same": "",
}


def watch(record: dict, texts: Sequence[str], console: Console | None = None) -> None:
    """Nothing; each sample is played, from its noise to its text, which takes the place of the play."""
    console = console or Console(file=sys.stdout)
    for sample, text in zip(record["samples"], texts, strict=True):
        times = sample["times"]
        with Live(console=console, auto_refresh=False, transient=True) as live:
            for number, frame in enumerate(frames(record, sample)):
                lines = [
                    part for line in frame.split("\n") for part in _folded(line, console.width)
                ]
                where = f"step {number} of {len(times) - 1}, t = {times[number]:.2f}"
                lines = [*lines, Text(where, style="dim")][-max(1, console.height - 1) :]
                live.update(Text("\n").join(lines), refresh=True)
                time.sleep(min(0.2, _SECONDS / len(times)))
        print(text, flush=True)


def _folded(line: Text, width: int) -> Lines:
    """The line in parts as wide as the terminal: a line broken between words would move in the play."""
    return line.divide(range(width, len(line), width))


def frames(record: dict, sample: dict) -> Iterator[Text]:
    """The states of a sample one after another, what changed in the step that led to each set off."""
    before = sample["tokens"][0]
    for tokens in sample["tokens"]:
        text = Text()
        for token, old, given in zip(tokens, before, record["given"], strict=True):
            text.append(shown(record, token), STYLES[_kind(record["mask"], token, old, given)])
        yield text
        before = tokens


def _kind(mask: int | None, token: np.integer, old: np.integer, given: bool) -> str:
    if given:
        return "given"
    if token == mask:
        return "masked"
    return "same" if token == old else "revealed" if old == mask else "changed"


def shown(record: dict, token: np.integer) -> str:
    """The token as it stands in a terminal, which no text controls."""
    if token == record["mask"]:
        return MASK
    symbol = record["symbols"][token]
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in symbol)
