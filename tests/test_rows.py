"""Texts by documents: their splits, and training and evaluation by rows."""

import json
import subprocess
import sys
from functools import partialmethod

import numpy as np
import pytest
from conftest import SMALL, on_devices

from experiments import cli
from experiments.data import documents
from experiments.data.text import Text, prepare
from experiments.data.tokenizers import Bytes
from experiments.errors import UserError

# Text by documents


@pytest.fixture
def lines(tmp_path):
    words = ["the", "state", "of", "the", "union", "and", "we", "people", "this", "land"]
    rng = np.random.default_rng(0)
    text = "\n".join(" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(400)) + "\n\n"
    path = tmp_path / "lines.txt"
    path.write_text(text)
    return path


def read(path, **settings):
    settings = {
        "length": 48,
        "document": "line",
        "cache_dir": str(path.parent / "cache"),
    } | settings
    return prepare(Text(str(path), **settings))


def test_documents_are_the_lines_and_splits_fall_between_them(lines):
    corpus = read(lines, rows="sentence")
    written = lines.read_text().splitlines()[:400]
    found = []
    for split in ("train", "validation", "test"):
        rows = corpus.sequences(split, 48, "sentence")
        tokens, segments = rows.read(np.arange(len(rows)))
        found += [corpus.tokenizer.decode(x[s > 0]) for x, s in zip(tokens, segments, strict=True)]
    assert "".join(found) == "".join(written) and set(found) >= {w for w in written if len(w) < 48}
    documents = [corpus.split_documents(name) for name in ("train", "validation", "test")]
    assert sum(len(d.words) for d in documents) == 400
    assert sum(int(d.words.sum()) for d in documents) == len(lines.read_text().split())
    assert sum(int(d.characters.sum()) for d in documents) == sum(map(len, written))
    shares = [len(corpus.split(name, 1)) / len(corpus.tokens) for name in ("validation", "test")]
    assert all(0.03 < share < 0.07 for share in shares)


def test_lines_of_a_text_that_goes_on_are_the_text_itself(lines):
    corpus = read(lines, tokenizer=Bytes())
    assert corpus.tokenizer.decode(np.asarray(corpus.tokens)) == lines.read_text().rstrip("\n")
    crlf = lines.with_name("crlf.txt")
    crlf.write_bytes(lines.read_bytes().replace(b"\n", b"\r\n"))
    again = read(crlf, tokenizer=corpus.tokenizer)
    np.testing.assert_array_equal(again.tokens, corpus.tokens)


def test_a_killed_preparation_goes_on_where_it_was(lines, monkeypatch):
    monkeypatch.setattr(documents, "_EVERY", 500)
    straight = read(
        lines, rows="sentence", tokenizer=Bytes(), cache_dir=str(lines.parent / "other")
    )
    encode, encoded = Bytes.encode, []

    def counting(self, chunks, where, most=10**9):
        for tokens in encode(self, chunks, where):
            if len(encoded) == most:
                raise KeyboardInterrupt
            encoded.append(tokens)
            yield tokens

    monkeypatch.setattr(Bytes, "encode", partialmethod(counting, most=150))
    with pytest.raises(KeyboardInterrupt):
        read(lines, rows="sentence", tokenizer=Bytes())
    encoded.clear()
    monkeypatch.setattr(Bytes, "encode", counting)
    corpus = read(lines, rows="sentence", tokenizer=Bytes())
    assert 250 <= len(encoded) < 300  # of 400, those after the last place that was kept
    np.testing.assert_array_equal(corpus.tokens, straight.tokens)
    for field in ("starts", "characters", "words"):
        np.testing.assert_array_equal(
            getattr(corpus.documents, field), getattr(straight.documents, field)
        )
    (folder,) = (lines.parent / "cache").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "corpus.json",
        "documents.npy",
        "tokens.bin",
    ]


def test_after_a_mistake_nothing_is_left_of_a_preparation(lines):
    with pytest.raises(UserError, match="outside the 27 letters"):
        lines.write_text("fine\nNot fine\n")
        read(lines, rows="sentence")
    assert not (lines.parent / "cache").exists()


@pytest.mark.parametrize(
    "settings, word",
    [
        (dict(rows="pack", labels="folder"), "labels"),
        (dict(rows="pack", split_points=(1, 2, 3)), "split_points"),
        (dict(begin="[CLS]"), "begin"),
    ],
)
def test_settings_that_do_not_go_with_documents_are_rejected(settings, word):
    with pytest.raises(ValueError, match=word):
        Text("x", document="line" if "begin" not in settings else "file", **settings)


# The commands


def train(config, workdir, lines, *settings):
    text = [f"data.path={lines}", "data.document=line", "data.length=48"]
    sets = [word for s in [*SMALL, *text, *settings] for word in ("--set", s)]
    where = ["--config", f"configs/sotu/{config}.py", "--workdir", str(workdir)]
    return cli.guarded("train", [*where, *sets])


def evaluate(workdir, *options):
    where = ["--workdir", str(workdir), "--split", "test"]
    assert cli.guarded("evaluate", [*where, "--num-times", "2", *options]) == 0
    (path,) = (workdir / "records").glob("test-*.json")
    record = json.loads(path.read_text())
    path.unlink()
    return record


@pytest.mark.parametrize("config", ["mdlm", "autoregressive"])
def test_runs_on_packed_rows_count_what_wc_counts_whatever_the_batch(config, lines, tmp_path):
    assert train(config, tmp_path / "w", lines, "data.rows=pack", "train.num_steps=8") == 0
    few, many = (evaluate(tmp_path / "w", "--batch-size", n) for n in ("3", "16"))
    corpus = read(lines, rows="pack")
    test = corpus.tokenizer.decode(corpus.split("test", 1))
    written = "\n".join(
        lines.read_text().splitlines()[-(len(corpus.split_documents("test").words)) - 1 :]
    )
    assert few["tokens"] == few["characters"] == len(test)
    assert few["words"] == len(written.split())
    assert few["sequences"] == few["sequences_in_split"]
    assert few["context"]["protocol"] == "pack" and few["context"]["length_given"]
    nats = few["nats_per_token"] * few["tokens"]
    assert abs(few["nats_per_word"] - nats / few["words"]) < 1e-6 * nats
    assert abs(few["perplexity_per_word"] / np.exp(few["nats_per_word"]) - 1) < 1e-6
    assert abs(few["value"] / many["value"] - 1) < 1e-5
    low, high = few["confidence_interval_95"]
    assert 0 < few["standard_error"] == pytest.approx((high - low) / 3.92)
    assert (low + high) / 2 == pytest.approx(few["value"])


def test_a_sentence_has_one_loss_in_a_row_of_its_own_and_among_others(lines, tmp_path):
    """Of an exact likelihood: packing changes neither the sum nor the count."""
    assert (
        train("autoregressive", tmp_path / "w", lines, "data.rows=pack", "train.num_steps=8") == 0
    )
    packed = evaluate(tmp_path / "w")
    alone = evaluate(tmp_path / "w", "--set", "data.rows=sentence")
    assert alone["tokens"] == packed["tokens"] and alone["sequences"] > packed["sequences"]
    assert abs(alone["value"] / packed["value"] - 1) < 1e-5


def test_devices_change_no_number(lines, tmp_path):
    assert train("mdlm", tmp_path / "w", lines, "data.rows=pack") == 0
    alone = evaluate(tmp_path / "w")
    code = (
        "import sys; from experiments import cli; sys.exit(cli.guarded('evaluate', sys.argv[1:]))"
    )
    arguments = ["--workdir", str(tmp_path / "w"), "--split", "test", "--num-times", "2"]
    subprocess.run(
        [sys.executable, "-c", code, *arguments], env=on_devices(8), timeout=300, check=True
    )
    (path,) = (tmp_path / "w" / "records").glob("test-*.json")
    record = json.loads(path.read_text())
    assert record["device"].startswith("8 x ") and record["tokens"] == alone["tokens"]
    for field in ("value", "standard_error", "perplexity_per_word"):
        assert abs(record[field] / alone[field] - 1) < 1e-5


def test_other_texts_are_evaluated_by_one_command(lines, tmp_path, capsys):
    """A file as a whole, a folder by its split; the record says which text it was."""
    assert train("mdlm", tmp_path / "w", lines) == 0
    folder = tmp_path / "prepared"
    folder.mkdir()
    (folder / "test.txt").write_text("we the people\nof this land\n" * 4)
    (folder / "dataset.json").write_text('{"name": "ptb"}')
    where = ["--workdir", str(tmp_path / "w"), "--split", "test", "--num-times", "1"]
    texts = ["--text", str(lines), "--text", str(folder)]
    capsys.readouterr()
    assert cli.guarded("evaluate", [*where, *texts]) == 0
    records = [json.loads(p.read_text()) for p in sorted((tmp_path / "w" / "records").iterdir())]
    by_source = {record["source"]: record for record in records}
    whole, prepared = by_source["lines.txt"], by_source["prepared"]
    assert whole["words"] == len(lines.read_text().split())
    assert prepared["words"] == 24 and prepared["dataset"] == "ptb" and "dataset" not in whole
    assert capsys.readouterr().out.count("record: ") == 2
    assert cli.guarded("evaluate", [*where, *texts, "--out", "x.json"]) == 2
    assert cli.guarded("evaluate", [*where, "--text", str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    lines.write_text("Twelve letters\n" * 20)
    assert cli.guarded("evaluate", [*where, "--text", str(lines)]) == 2
    error = capsys.readouterr().err
    assert "keeps the alphabet" in error and "Characters" not in error
    assert whole["split"] == "all" and prepared["split"] == "test"


@pytest.mark.parametrize(
    "config, settings, word",
    [
        ("block4", [], "BlockDiffusion treats a row as one text"),
        ("genmd4", [], "GenMD4 treats a row as one text"),
        ("mdlm", ["data.labels=folder"], "labels"),
    ],
)
def test_what_takes_a_row_for_one_text_is_rejected(config, settings, word, lines, tmp_path, capsys):
    assert train(config, tmp_path / "w", lines, "data.rows=pack", *settings) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1 and not (tmp_path / "w").exists()


def test_a_split_without_documents_is_told(lines):
    lines.write_text("only one line\n")
    with pytest.raises(UserError, match="validation split has 0 tokens"):
        read(lines, rows="sentence").sequences("validation", 48, "sentence")
