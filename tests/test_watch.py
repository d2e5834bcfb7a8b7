"""`ddlm sample --watch`: what is seen at each step, and that it ends with the samples."""

import io
import math

from rich.console import Console

from experiments import cli
from experiments.sampling import watch as watching
from experiments.sampling.watch import MASK, STYLES, frames, watch

RECORD = {
    "symbols": ["a", "b", "\x1b", "\n"],
    "mask": 4,
    "given": [True, False, False, False],
    "samples": [
        {
            "number": 7,
            "times": [1.0, 0.5, 0.0],
            "tokens": [[0, 4, 4, 4], [0, 1, 4, 0], [0, 1, 2, 1]],
        }
    ],
}


def test_masked_new_and_changed_tokens_are_told_apart_and_no_text_controls_the_terminal():
    texts = list(frames(RECORD, RECORD["samples"][0]))
    assert [text.plain for text in texts] == [f"a{MASK * 3}", f"ab{MASK}a", "ab\ufffdb"]
    kinds = {style: kind for kind, style in STYLES.items()}
    found = [[kinds[span.style] for span in text.spans] for text in texts]
    assert found == [
        ["given", "masked", "masked", "masked"],
        ["given", "revealed", "masked", "revealed"],
        ["given", "revealed", "changed"],
    ]
    assert texts[2].spans[1].start == 2  # of b, which stays, there is none


def test_the_play_is_one_frame_a_step_and_leaves_the_text(monkeypatch, capsys):
    slept, screen = [], io.StringIO()
    monkeypatch.setattr(watching.time, "sleep", slept.append)
    console = Console(file=screen, force_terminal=True, width=3, color_system=None)
    watch(RECORD, ["[7] the text"], console)
    assert slept == [0.2] * 3 and capsys.readouterr().out == "[7] the text\n"
    lines = [line.strip() for line in screen.getvalue().replace("\x1b", "\n").splitlines()]
    assert f"a{MASK * 2}" in screen.getvalue() and len(lines) > 3  # folded at the width
    long = {**RECORD["samples"][0], "times": [1.0] * 600, "tokens": [[0, 4, 4, 4]] * 600}
    slept.clear()
    watch(RECORD | {"samples": [long]}, ["x"], console)
    assert len(slept) == 600 and math.isclose(sum(slept), 6)


def test_of_a_frame_that_is_too_high_the_end_is_seen(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(watching.time, "sleep", lambda seconds: None)
    console = Console(file=screen, force_terminal=True, width=40, height=4, color_system=None)
    tokens = [[0, 3, 0, 3, 0, 3, 0, 3, 1]] * 2
    sample = {"number": 0, "times": [1.0, 0.0], "tokens": tokens}
    watch(RECORD | {"given": [False] * 9, "samples": [sample]}, ["x"], console)
    assert "step 1 of 1" in screen.getvalue() and "b\n" in screen.getvalue()
    assert "a\na\na" not in screen.getvalue() and "\u2026" not in screen.getvalue()


def test_what_is_no_terminal_is_one_line_before_any_work(capsys):
    assert cli.guarded("sample", ["--workdir", "nowhere", "--watch"]) == 2
    assert capsys.readouterr().err == (
        "error: --watch needs a terminal, which standard output is not; leave it out, or use "
        "--trace PAGE.html\n"
    )
