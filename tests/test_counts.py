"""Characters and words of a text: one definition in all rows, for all tokens, and in records."""

import dataclasses
import hashlib
import json
import math
from functools import partialmethod

import numpy as np
import pytest
from conftest import SMALL
from record_examples import TEXT8, changed

from experiments import cli
from experiments.comparison.record_groups import Entry, group
from experiments.compression.text import report, to_bytes, to_tokens
from experiments.data import documents
from experiments.data.statistics import context_embeddings
from experiments.data.subwords import Subwords
from experiments.data.text import Text, prepare
from experiments.data.tokenizers import COUNTED, Bytes, Characters, Letters27
from experiments.errors import UserError
from experiments.evaluation.bound import spelled
from experiments.evaluation.record_files import read_record, write_record
from experiments.evaluation.units import Estimate
from experiments.studies.fuzzing.table_readers import write_wordpiece

ROWS = ["wrap", "sentence", "pack"]
LINE = "The State, of the Union: 1984!\u00a0\u2028 «Ünion» naïve 日本 . "
NORMAL = "the state of the union one nine eight four nion na ve "


def counts(folder, tokenizer, content, **settings):
    """(characters, words) that evaluation counts in a file as a whole."""
    path = folder / "text.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    data = Text(str(path), tokenizer, 8, cache_dir=str(folder / "cache"), **settings)
    corpus = prepare(data).whole("all")
    found = spelled(corpus, "all", corpus.sequences("all", 8, data.rows), 8)
    return found.characters, found.words


def tokenizer(name, folder):
    write_wordpiece(folder / "vocab.txt")
    return {
        "letters": Letters27(normalize=True),
        "bytes": Bytes(),
        "characters": Characters(),
        "subwords": Subwords(str(folder / "vocab.txt")),
    }[name]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", ["letters", "bytes", "characters", "subwords"])
def test_characters_and_words_are_those_of_the_text_in_all_rows(name, rows, tmp_path):
    text = NORMAL if name == "letters" else LINE
    found = counts(tmp_path, tokenizer(name, tmp_path), LINE, rows=rows)
    assert found == (len(text), len(text.split()))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", ["letters", "bytes", "characters", "subwords"])
def test_lines_are_counted_as_they_are_modelled(name, rows, tmp_path):
    one = NORMAL if name == "letters" else LINE
    found = counts(tmp_path, tokenizer(name, tmp_path), f"{LINE}\n" * 5, rows=rows, document="line")
    between = 4 if rows == "wrap" and name != "letters" else 0  # a space already ends the line
    assert found == (5 * len(one) + between, 5 * len(one.split()))


def test_a_document_is_normalised_by_itself_unless_the_text_goes_on(tmp_path):
    normal, content = Letters27(normalize=True), "One.\n?Two.\n?Three.\n"
    assert counts(tmp_path, normal, content) == (len("one two three "), 3)
    assert counts(tmp_path, normal, content, document="line") == (len("one two three "), 3)
    alone = counts(tmp_path, normal, content, document="line", rows="sentence")
    assert alone == (len("one ") + len(" two ") + len(" three "), 3)


@pytest.mark.parametrize("rows", ["wrap", "sentence"])
def test_a_killed_preparation_of_normalised_text_goes_on_where_it_was(rows, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("? A line, and. \n" * 300)
    monkeypatch.setattr(documents, "_EVERY", 100)
    settings = dict(tokenizer=Letters27(normalize=True), document="line", rows=rows)
    read = lambda cache: prepare(  # noqa: E731
        Text(str(tmp_path / "text.txt"), cache_dir=str(tmp_path / cache), **settings)
    )
    straight, encode = read("straight"), Letters27.encode

    def stopping(self, chunks, where, most=77):
        for number, tokens in enumerate(encode(self, chunks, where)):
            if number == most:
                raise KeyboardInterrupt
            yield tokens

    monkeypatch.setattr(Letters27, "encode", partialmethod(stopping))
    with pytest.raises(KeyboardInterrupt):
        read("killed")
    monkeypatch.setattr(Letters27, "encode", encode)
    np.testing.assert_array_equal(read("killed").tokens, straight.tokens)


def bytes_of(text):
    return np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)


@pytest.mark.parametrize("text", ["naïve 日本\u3000語 \u2028x", "a\u0085b 😀 é"])
def test_a_character_that_is_cut_counts_where_it_begins(text):
    tokens = bytes_of(text)
    for size in (1, 2, 3, 5, 100):
        parts = [tokens[n : n + size] for n in range(0, len(tokens), size)]
        assert sum(map(Bytes().count_characters, parts)) == len(text)
        assert not any(map(Bytes().count_not_text, parts))
    assert Bytes().count_words(tokens) == len(text.split())


@pytest.mark.parametrize(
    "content, characters, not_text",
    [
        (b"\x80\x81" * 100, 0, 200),
        (b"ab\xff\xfe\x80", 2, 3),
        (b"", 0, 0),
        (b"\xc3\xa9\xc3", 2, 0),
        (b"\xed\xa0\x80 ab", 3, 3),
        (bytes(range(256)), 128 + 0, 128),
    ],
)
def test_bytes_that_are_no_text_are_counted_apart(content, characters, not_text):
    tokens = bytes_of(content)
    assert Bytes().count_characters(tokens) == characters
    assert Bytes().count_not_text(tokens) == not_text


def test_rows_agree_on_bytes_that_are_no_text(tmp_path):
    content = b"the state \xff\xfe of \xe6\x97\xa5 union \x80"
    found = {counts(tmp_path, Bytes(), content, rows=rows) for rows in ROWS}
    assert found == {(len("the state  of 日 union "), 7)}


@pytest.mark.parametrize(
    "characters, not_text, unit, bits",
    [
        (20, None, "bits per character", 1.0),
        (20, 0, "bits per character", 1.0),
        (20, 3, "bits per byte", 2.0),
        (0, 10, "bits per byte", 2.0),
        (0, None, "bits per token", 2.0),
    ],
)
def test_bits_are_per_what_the_text_has(characters, not_text, unit, bits):
    result = Estimate(np.full((5, 2), 4 * math.log(2)), np.full(5, 2), characters, not_text)
    assert result.unit == unit and result.bits == pytest.approx(bits)
    assert result.to_bits(1.0) == pytest.approx(bits / 2 / math.log(2))
    assert math.isnan(result.bits_per_character) == (characters == 0)


def test_records_from_before_that_counted_otherwise_are_in_another_group():
    old = {"context.protocol": "sentence"}
    new = {"context.counted": COUNTED}
    (same,) = group([Entry("a", TEXT8), Entry("b", changed(new))])
    assert len(same.entries) == 2
    assert len(group([Entry("a", changed(old)), Entry("b", changed(old | new))])) == 1
    settings = json.dumps(dataclasses.asdict(Letters27(normalize=True)), sort_keys=True)
    old["tokenizer_sha256"] = hashlib.sha256(settings.encode()).hexdigest()
    assert len(group([Entry("a", changed(old)), Entry("b", changed(old | new))])) == 2


def test_perplexity_per_word_is_said_where_tokens_are_of_words(tmp_path):
    words = {"words": 7, "nats_per_word": 4.0, "perplexity_per_word": 54.6}
    words["perplexity_per_word_standard_error"] = 0.5
    for name, said in (("Letters27", False), ("Bytes", False), ("Subwords", True)):
        line = write_record(tmp_path / "r.json", changed(words | {"tokenizer": name}))
        assert (" a word" in line) == said and "perplexity 2.639" in line
        assert read_record(tmp_path / "r.json")["words"] == 7


@pytest.mark.parametrize(
    "content, said",
    [(b"\x80" * 4, "2.000 bits per byte"), ("éé".encode(), "4.000 bits per character")],
)
def test_compressed_sizes_are_per_what_the_file_has(content, said):
    assert said in report({"coded": 1}, content)


def test_compression_rejects_text_that_tokens_spell_otherwise(tmp_path):
    words = tokenizer("subwords", tmp_path).read()
    assert to_bytes(words, to_tokens(words, b"the people", tmp_path)) == b"the people"
    for content in (b"The people", b"the  people", b"the people\n", "the ☃".encode()):
        with pytest.raises(UserError, match="its tokens do not reproduce it exactly"):
            to_tokens(words, content, tmp_path)


def test_embeddings_of_one_token_are_numbers():
    assert np.isfinite(context_embeddings(np.zeros(1, np.uint8), 3)).all()


# The commands


@pytest.mark.representatives("content0")
@pytest.mark.parametrize(
    "content, characters, not_text",
    [(b"\x80\x81" * 100, 0, 10), (b"the st\xff" * 60, 18, 3), ("é" * 100, 5, 0)],
)
def test_text_without_characters_has_bits_per_byte(content, characters, not_text, tmp_path, capsys):
    (tmp_path / "text").write_bytes(content if isinstance(content, bytes) else content.encode())
    settings = [*SMALL, f"data.path={tmp_path / 'text'}", "data.length=8", "data.tokenizer=Bytes"]
    settings += ["train.eval_every=2"]
    sets = [word for s in settings for word in ("--set", s)]
    where = ["--workdir", str(tmp_path / "w")]
    assert cli.guarded("train", ["--config", "configs/sotu/mdlm.py", *where, *sets]) == 0
    unit = "character" if not_text == 0 else "byte"
    assert f"bits/{unit[:4]}" in capsys.readouterr().out
    assert cli.guarded("evaluate", [*where, "--split", "test", "--num-times", "1"]) == 0
    (path,) = (tmp_path / "w" / "records").iterdir()
    record = read_record(path)
    assert record["unit"] == f"bits per {unit}" and record["bytes"] == record["tokens"]
    assert record["characters"] == characters and record["bytes_not_text"] == not_text
    per = record["characters"] if unit == "character" else record["bytes"]
    bits = record["nats_per_token"] * record["tokens"] / math.log(2) / per
    assert record["value"] == pytest.approx(bits) and record["context"]["counted"] == COUNTED
    said = capsys.readouterr().out
    assert f"bits per {unit} (" in said
    assert (f"{not_text} of the {record['bytes']} bytes are not text" in said) == (not_text > 0)


@pytest.mark.parametrize("option", ["prompt", "template", "require", "ban", "blank", "label"])
def test_what_is_not_utf8_in_a_text_option_is_one_line(option, capsys):
    assert cli.guarded("sample", ["--workdir", "none", f"--{option}", "a\udcff"]) == 2
    error = capsys.readouterr().err
    assert f"--{option}: 'a\\udcff' is not UTF-8 at its character 2" in error
    assert error.count("\n") == 1


def test_a_workdir_whose_name_checkpoints_cannot_take_is_told_at_once(tmp_path, capsys):
    config = ["--config", "configs/sotu/mdlm.py", "--workdir", str(tmp_path / "\udcff")]
    assert cli.guarded("train", config) == 2
    assert "its name is not UTF-8" in capsys.readouterr().err and not list(tmp_path.iterdir())
