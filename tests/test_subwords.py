"""Subword tokenizers from small local files: round trips, identity, and what is rejected."""

import json
import random
import re

import numpy as np
import pytest
from conftest import SMALL
from tokenizers import Tokenizer, models, pre_tokenizers

from experiments import cli
from experiments.data import subwords
from experiments.data.protocols import PROTOCOLS, protocol, protocol_of
from experiments.data.subwords import Subwords
from experiments.errors import UserError

WORDS = ["the", "state", "of", "union", "un", "##ion", "new", "'", ",", "."]
TEXT = "The state of the unions, new union.\n\nOf the New state\n" * 3


@pytest.fixture
def files(tmp_path):
    """A vocabulary of each kind."""
    bert = tmp_path / "vocab.txt"
    letters = [c for c in "abcdefghijklmnopqrstuvwxyz"]
    pieces = [*WORDS, *letters, *(f"##{c}" for c in letters)]
    bert.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces]) + "\n")
    gpt2 = tmp_path / "gpt2"
    gpt2.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ċ", "Ċ"), ("Ġ", "t")]
    vocab = [*alphabet, *("".join(pair) for pair in merges), "<|endoftext|>"]
    (gpt2 / "encoder.json").write_text(json.dumps({v: n for n, v in enumerate(vocab)}))
    (gpt2 / "vocab.bpe").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n"
    )
    whole = tmp_path / "tokenizer.json"
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "state": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(whole))
    return {"bert": bert, "gpt2": gpt2, "json": whole}


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    """A SentencePiece model trained by the command on lines of words."""
    folder = tmp_path_factory.mktemp("spm")
    rng = random.Random(0)
    words = ["state", "union", "people", "question", "the", "of", "and", "new", "law"]
    lines = [" ".join(rng.choices(words, k=6)) for _ in range(300)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    out = folder / "spm.model"
    words = ["--data", str(folder / "text.txt"), "--vocab-size", "28", "--out", str(out)]
    assert cli.guarded("train_sentencepiece", words) == 0
    return out


def encode(tokenizer, text):
    return np.concatenate(list(tokenizer.encode([text], "here")))


def test_wordpiece_is_berts_and_round_trips_its_own_text(files):
    tokenizer = Subwords(str(files["bert"])).read()
    assert tokenizer.vocab_size == 4 + len(WORDS) + 52 and tokenizer.unknown == 1
    said = tokenizer.decode(encode(tokenizer, "The Unions, of\nstates"))
    assert said == "the unions , of states"
    np.testing.assert_array_equal(
        encode(tokenizer, said), encode(tokenizer, "The unions, of states")
    )
    pieces = encode(tokenizer, "unions")
    assert [tokenizer.number(piece) for piece in ("un", "##ion", "##s")] != list(pieces)
    assert list(pieces) == [tokenizer.number("union"), tokenizer.number("##s")]
    assert list(encode(tokenizer, "the ☃")) == [tokenizer.number("the"), 1]
    assert tokenizer.number("[SEP]") == 3


def test_byte_level_bpe_gives_every_text_back(files):
    tokenizer = Subwords(str(files["gpt2"])).read()
    assert tokenizer.vocab_size == 256 + 5 and tokenizer.unknown is None
    for text in (TEXT, "  naïve ☃\r\n\tthe\n\n\n", "\n"):
        assert tokenizer.decode(encode(tokenizer, text)) == text
    assert list(encode(tokenizer, "the")) == [tokenizer.number("the")]
    assert tokenizer.count_words(encode(tokenizer, TEXT)) == len(TEXT.split())


def test_long_texts_are_cut_where_tokens_do_not_change(files, monkeypatch):
    for kind in ("bert", "gpt2"):
        tokenizer = Subwords(str(files[kind])).read()
        whole = encode(tokenizer, TEXT * 5)
        with monkeypatch.context() as patched:
            patched.setattr(subwords, "_BATCH", 20)
            assert len(list(subwords._pieces(TEXT * 5))) > 10
            np.testing.assert_array_equal(encode(tokenizer, TEXT * 5), whole)


def test_many_documents_are_encoded_one_by_one(files, monkeypatch):
    tokenizer = Subwords(str(files["gpt2"])).read()
    monkeypatch.setattr(subwords, "_BATCH", 20)
    texts = ["the state", "", "of the\nunion", "new" * 9, "a"]
    found = list(tokenizer.encode(iter(texts), "here"))
    assert [tokenizer.decode(tokens) for tokens in found] == texts


def test_sentencepiece_trained_here_gives_its_text_back(spm):
    tokenizer = Subwords(str(spm)).read()
    assert tokenizer.vocab_size == 28
    text = "the state of the union and new people"
    tokens = encode(tokenizer, text)
    assert tokenizer.decode(tokens) == text and len(tokens) < len(text) / 2
    assert tokenizer.number("</s>") != tokenizer.unknown
    assert list(encode(tokenizer, "☃"))[-1] == tokenizer.unknown
    with pytest.raises(UserError, match="no token 'nonsense'"):
        tokenizer.number("nonsense")


def test_a_tokenizer_json_is_read(files):
    tokenizer = Subwords(str(files["json"])).read()
    assert list(encode(tokenizer, "the state union")) == [1, 2, 0]


def test_identity_is_the_content_and_not_the_place(files, tmp_path):
    first = Subwords(str(files["bert"])).read()
    moved = tmp_path / "elsewhere.txt"
    moved.write_bytes(files["bert"].read_bytes())
    assert Subwords(str(moved)).read() == first and hash(Subwords(str(moved)).read()) == hash(first)
    moved.write_text(moved.read_text() + "more\n")
    assert Subwords(str(moved)).read() != first
    with pytest.raises(UserError, match=r"its vocabulary .* is not that of the run"):
        Subwords(str(moved), first.sha256).read()


@pytest.mark.parametrize(
    "name, content, word",
    [
        ("vocab.txt", "[PAD]\nthe\n", r"\[UNK\]"),
        ("vocab.txt", "", r"\[UNK\]"),
        ("vocab.txt", "[UNK]\nthe\nthe\n", "repetitions"),
        ("spm.model", "not a model", "cannot be read as a tokenizer"),
        ("tokenizer.json", "{", "cannot be read as a tokenizer"),
        ("tokenizer.json", '{"version": "1.0"}', "cannot be read as a tokenizer"),
        (None, None, "No such file"),
    ],
)
def test_broken_vocabularies_are_one_line(name, content, word, tmp_path):
    path = tmp_path / (name or "missing.txt")
    if name:
        path.write_text(content)
    with pytest.raises(UserError, match=word) as error:
        Subwords(str(path)).read()
    assert "\n" not in str(error.value)


def test_a_bpe_without_all_bytes_is_rejected(files):
    vocab = json.loads((files["gpt2"] / "encoder.json").read_text())
    vocab["zz"] = vocab.pop("a")
    (files["gpt2"] / "encoder.json").write_text(json.dumps(vocab))
    with pytest.raises(UserError, match="neither all bytes"):
        Subwords(str(files["gpt2"])).read()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_data_follows_a_protocol_by_its_settings_alone(name):
    sizes = {"train": (0, 90_000_000), "validation": (0, 95_000_000), "test": (0, 100_000_000)}
    data = protocol(name, path="anywhere")
    assert protocol_of(data, sizes) == name
    assert protocol_of(protocol(name, length=64), sizes) is None
    other = {"test": (0, 99)} | {k: (0, 90) for k in ("train", "validation")}
    assert protocol_of(data, other) == (None if name.startswith("text8") else name)
    with pytest.raises(ValueError, match="not one of"):
        protocol("text9")


# The commands


def test_a_run_on_subwords_lives_without_its_vocabulary_file(files, tmp_path, capsys):
    text = tmp_path / "text.txt"
    rng = random.Random(0)
    words = ["The", "state", "of", "union", "new", "☃"]
    text.write_text("\n".join(" ".join(rng.choices(words, k=7)) for _ in range(300)))
    settings = [*SMALL, f"data.path={text}", "data.length=16", "data.document=line",
                "data.tokenizer=Subwords", f"data.tokenizer.path={files['bert']}",
                "data.rows=sentence", "data.begin=[CLS]", "data.end=[SEP]"]  # fmt: skip
    sets = [word for s in settings for word in ("--set", s)]
    where = ["--workdir", str(tmp_path / "w")]
    config = ["--config", "configs/sotu/mdlm.py"]
    assert cli.guarded("train", [*config, *where, *sets]) == 0
    files["bert"].unlink()
    assert cli.guarded("evaluate", [*where, "--split", "test", "--num-times", "1"]) == 0
    (path,) = (tmp_path / "w" / "records").iterdir()
    record = json.loads(path.read_text())
    lines = text.read_text().split("\n")[-record["sequences"] :]
    assert record["tokens"] == 9 * len(lines) and record["words"] == 7 * len(lines)
    assert record["characters"] == sum(map(len, lines))
    assert record["unknown_tokens"] == sum(line.count("☃") for line in lines) > 0
    assert record["context"]["added_tokens"] == ["[CLS]", "[SEP]"]
    capsys.readouterr()
    assert cli.guarded("sample", [*where, "--num", "1", "--steps", "2", "--prompt", "The new"]) == 0
    assert capsys.readouterr().out.startswith("[0] the new")
    options = ["--num", "1", "--steps", "2", "--template", "the stat_s of", "--ban", "the"]
    assert cli.guarded("sample", [*where, *options]) == 0
    out, err = capsys.readouterr()
    assert re.match(r"\[0\] the stat ?\S+s of", out)
    assert "banned tokens: 'the'\n" in err
    longer = [*sets, "--set", "train.num_steps=3", "--set", f"data.tokenizer.path={tmp_path / 'w'}"]
    assert cli.guarded("train", [*config, *where, *longer]) == 2  # not a vocabulary
    longer[-1] = f"data.tokenizer.path={tmp_path / 'w' / 'tokenizer'}"
    assert cli.guarded("train", [*config, *where, *longer]) == 0


def test_a_token_that_the_vocabulary_lacks_is_told(files, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the state\n" * 300)
    settings = [*SMALL, f"data.path={text}", "data.length=16", "data.tokenizer=Subwords",
                f"data.tokenizer.path={files['bert']}", "data.end=[END]"]  # fmt: skip
    sets = [word for s in settings for word in ("--set", s)]
    where = ["--config", "configs/sotu/mdlm.py", "--workdir", str(tmp_path / "w")]
    assert cli.guarded("train", [*where, *sets]) == 2
    error = capsys.readouterr().err
    assert "has no token '[END]'" in error and error.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_number_beyond_the_vocabulary_has_no_name(files):
    with pytest.raises(UserError, match="has no token with the number 1000000"):
        Subwords(str(files["bert"])).read().name(1_000_000)
