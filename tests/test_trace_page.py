"""The page that plays a trace: what it holds is the record, whatever text is in it."""

import base64
import copy
import html
import json
import operator
import re

import numpy as np
import pytest

from experiments import cli
from experiments.sampling.trace_page import page, pages, rendered_anew

HOSTILE = ["</script>", "<!--", "<script>", "]]>", "\u2028\u2029", "\"'\\", "&lt;&", "\x00\x1b\x7f"]
HOSTILE += ["@RECORD@", "\n", " ", "", "\ud800", "é漢😀", "\u202e", "${x}`", "\\u003c"]


def record(symbols, length, steps, samples, mask=True, seed=0):
    """A record whose positions are revealed, changed and masked again at random; the first is given."""
    draw = np.random.default_rng(seed)
    mask = len(symbols) if mask else None
    kept = []
    for number in range(samples):
        tokens = draw.integers(0, len(symbols), (steps + 1, length))
        if mask is not None:
            tokens[draw.random(tokens.shape) < np.linspace(1, 0, steps + 1)[:, None]] = mask
        for k in range(1, steps + 1):  # a fifth of the positions moves in a step
            stays = draw.random(length) < 0.8
            tokens[k, stays] = tokens[k - 1, stays]
        tokens[:, 0] = 0
        probability = draw.random(tokens.shape).tolist()
        probability[0] = [None] * length
        times = np.linspace(1, 0, steps + 1).tolist()
        kept.append(
            {
                "number": number,
                "times": times,
                "tokens": tokens.tolist(),
                "probability": probability,
                "calls": steps,
            }
        )
    given = [True] + [False] * (length - 1)
    title = "a title: " + "".join(HOSTILE)
    return {"title": title, "symbols": symbols, "mask": mask, "given": given, "samples": kept}


SMALL = record(HOSTILE, length=60, steps=5, samples=2)


def held(page):
    """What a browser finds in the element: it ends at the first end tag, and nothing is unescaped."""
    text = re.search(
        r'<script type="application/json" id="record">(.*?)</script', page, re.S | re.I
    )
    return json.loads(text[1])


@pytest.mark.parametrize("mask", [True, False])
def test_the_page_holds_the_record_whatever_its_text(mask):
    expected = record(HOSTILE, length=60, steps=5, samples=2, mask=mask)
    found = held(page(expected))
    assert found["title"] == expected["title"]
    assert found["mask"] == expected["mask"]
    assert found["given"] == expected["given"]
    occurring = np.unique([sample["tokens"] for sample in expected["samples"]])
    symbols = {str(v): HOSTILE[v] for v in occurring if v != expected["mask"]}
    assert len(symbols) == len(HOSTILE) and found["symbols"] == symbols
    for old, new in zip(expected["samples"], found["samples"], strict=True):
        frames = [np.array(new["start"])]
        for changes in new["changes"]:
            frames.append(frames[-1].copy())
            frames[-1][changes[::2]] = changes[1::2]
        np.testing.assert_array_equal(frames, old["tokens"])
        level = np.frombuffer(base64.b64decode(new["probability"]), np.uint8).reshape(6, 60)
        assert (level[0] == 255).all() and (level[1:] < 255).all()
        np.testing.assert_allclose(level[1:] / 254, old["probability"][1:], atol=0.5 / 254)
        np.testing.assert_allclose(new["times"], old["times"], atol=1e-6)
        assert (new["number"], new["calls"]) == (old["number"], old["calls"])


def test_text_opens_no_tag_and_no_encoding_matters():
    text, plain = page(SMALL), page(record(["a"], length=2, steps=1, samples=1) | {"title": ""})
    assert text.isascii()
    assert text.count("<") == plain.count("<")


@pytest.mark.parametrize("text", [page(SMALL), pages([page(SMALL)] * 2)])
def test_the_page_loads_nothing(text):
    assert not re.search(r"https?://|\b(src|href|srcset)\s*=|@import|url\(|fetch\(", text, re.I)
    assert "default-src 'none'" in text


def test_the_page_begins_with_the_finished_text_by_the_step_that_brought_each_token():
    text = page(SMALL)
    script = text.rpartition("<script>")[2]
    assert "go(0, Infinity)" in script and 'show("when")' in script
    assert re.search(r"\.when \.t\.came \{[^}]*var\(--at\)", text)


def test_pages_side_by_side_are_whole_and_no_text_ends_them(tmp_path, capsys):
    alone = [page(SMALL), page(record(["a", "<b"], 3, 2, 1))]
    both = pages(alone)
    assert both.isascii() and both.count("<iframe") == 2
    assert [html.unescape(t) for t in re.findall(r'srcdoc="([^"]*)"', both)] == alone
    paths = [tmp_path / name for name in ("a.html", "b.html", "c.html")]
    for path, text in zip(paths, alone, strict=False):
        path.write_text(text)
    assert cli.guarded("trace", [str(paths[2]), *map(str, paths[:2])]) == 0
    assert paths[2].read_text() == both
    assert cli.guarded("trace", [str(paths[1]), *map(str, paths[:2])]) == 2  # over a trace
    assert "are the same file" in capsys.readouterr().err
    assert cli.guarded("trace", [str(tmp_path / "d"), __file__]) == 2
    assert "is no trace; give a page that" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_of_a_trace_the_record_alone_is_taken(tmp_path, capsys):
    added = page(SMALL).replace("</body>", "<script>other()</script></body>")
    assert "other()" in added and rendered_anew(added) == page(SMALL)
    tag = '<!DOCTYPE html><script type="application/json" id="record">'
    for number, text in enumerate(("[1]", "{", '{"a": NaN}', "[" * 10**5 + "]" * 10**5)):
        path = tmp_path / f"{number}.html"
        path.write_text(f"{tag}{text}</script>")
        assert cli.guarded("trace", [str(tmp_path / "out"), str(path)]) == 2
        assert "is no trace; give a page that" in capsys.readouterr().err


def test_the_page_is_a_function_of_the_record_and_arrays_are_lists():
    arrays = copy.deepcopy(SMALL)
    arrays["given"] = np.array(arrays["given"])
    for sample in arrays["samples"]:
        for name in ("times", "tokens"):
            sample[name] = np.array(sample[name])
        sample["probability"] = np.array(sample["probability"], float)  # None becomes NaN
    assert page(SMALL) == page(copy.deepcopy(SMALL)) == page(arrays)


def test_nothing_lies_over_the_text_of_a_small_screen():
    """On a phone of 360 x 640 the position's panel took the place that the text had."""
    style = re.search(r"<style>(.*)</style>", page(SMALL), re.S)[1]
    (small,) = re.findall(
        r"@media \(max-width: 480px\), \(max-height: 480px\) \{(.*?)\n\}", style, re.S
    )
    order = {name: int(number) for name, number in re.findall(r"#(\w+) \{ order: (\d)", small)}
    assert order["text"] < order["inspector"]
    assert re.search(r"#inspector \{[^}]*position: static", small)


def test_the_page_stays_small():
    """4/3 of a byte for a probability, 8 for a change, and what does not depend on the length."""
    letters = [chr(97 + v) for v in range(26)]
    template = len(page(record(letters, length=1, steps=0, samples=1)))
    assert template < 20_000
    big = record(letters, length=256, steps=128, samples=4)
    moves = sum((np.diff(sample["tokens"], axis=0) != 0).sum() for sample in big["samples"])
    assert 0 < len(page(big)) - template < 4 * 129 * 256 * 4 / 3 + 8 * moves + 12_000


def sample(name, value):
    return lambda record: record["samples"][1].update({name: value})


def token(frame, position, value):
    return lambda record: operator.setitem(record["samples"][1]["tokens"][frame], position, value)


REFUSED = {
    "sample 1: tokens has the shape": sample("times", [1.0, 0.0]),
    "sample 1: times must be one finite": sample("times", [1.0, float("nan")]),
    "sample 1: tokens: not a table": lambda record: record["samples"][1]["tokens"][2].pop(),
    "sample 1: tokens must be integers": sample("tokens", np.zeros((6, 60))),
    "sample 1: token 99 is neither": token(3, 4, 99),
    "sample 1: position 0 is given": token(5, 0, 1),
    "sample 1: probability has the shape": lambda record: record["samples"][1]["probability"].pop(),
    "sample 1: probability must lie": sample("probability", np.full((6, 60), 1.5)),
    "sample 0: tokens has the shape": lambda record: record["given"].append(False),
    "given has the shape": lambda record: record.update(given=[]),
    "mask 3 is a symbol": lambda record: record.update(mask=3),
    "samples is empty": lambda record: record.update(samples=[]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_named(message):
    broken = copy.deepcopy(SMALL)
    REFUSED[message](broken)
    with pytest.raises(ValueError, match=message):
        page(broken)
