"""Vocabulary files as they come: odd white space, other models, and what is random in them."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from experiments.data.subwords import Subwords
from experiments.errors import UserError
from experiments.sample_metrics.transformers_scorer import without_dropout

LINES = ["the state of the union walking and talking states unions people of the land"] * 30
BYTES = [f"<0x{n:02X}>" for n in range(256)]
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
ODD = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x00", "\u00a0", "\u3000"]


def encode(tokenizer, text):
    return [int(token) for chunk in tokenizer.encode([text], "here") for token in chunk]


def saved(folder, whole, name="tokenizer.json"):
    path = folder / name
    path.write_text(json.dumps(whole) if isinstance(whole, dict) else whole, "utf-8")
    return Subwords(str(path)).read()


def mistake(folder, whole, name="tokenizer.json"):
    with pytest.raises(UserError) as error:
        saved(folder, whole, name)
    return str(error.value)


def trained(model, trainer, pre_tokenizer, decoder):
    """A tokenizer.json, as a dictionary."""
    made = Tokenizer(model)
    made.pre_tokenizer, made.decoder = pre_tokenizer, decoder
    made.train_from_iterator(LINES, trainer)
    return json.loads(made.to_str())


def unigram():
    trainer = trainers.UnigramTrainer(vocab_size=40, unk_token="<unk>", special_tokens=["<unk>"])
    return trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), decoders.Metaspace())


def bpe(pre_tokenizer, decoder, **settings):
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False, **settings)
    return trained(models.BPE(), trainer, pre_tokenizer, decoder)


def byte_level(**settings):
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return bpe(level, decoders.ByteLevel(), initial_alphabet=LETTERS, **settings)


def with_byte_fallback(whole, count=256):
    """The same with the bytes as its first pieces, and nothing for what it lacks."""
    model = whole["model"] | {"byte_fallback": True}
    if model["type"] == "Unigram":
        pieces = [[byte, -20.0] for byte in BYTES[:count]]
        model |= {"unk_id": None, "vocab": pieces + model["vocab"][1:]}
    else:
        names = [*BYTES[:count], *model["vocab"]]
        model |= {"unk_token": None, "vocab": {name: n for n, name in enumerate(names)}}
    steps = [{"type": "ByteFallback"}, json.loads(decoders.Metaspace().__getstate__())]
    decoder = {"type": "Sequence", "decoders": steps}
    return whole | {"model": model, "decoder": decoder, "added_tokens": []}


def metaspace_bpe():
    return bpe(pre_tokenizers.Metaspace(), decoders.Metaspace())


# Lines


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_line_of_a_vocabulary_ends_at_its_line_break_and_nowhere_else(end, mark, tmp_path):
    tokens = ["[PAD]", "[UNK]", *ODD, "a", "##b", "the"]
    (tmp_path / "vocab.txt").write_bytes((mark + end.join(tokens) + end).encode())
    tokenizer = Subwords(str(tmp_path / "vocab.txt")).read()
    assert tokenizer.vocab_size == len(tokens)
    assert [tokenizer.number(token) for token in tokens] == list(range(len(tokens)))
    assert [tokenizer.name(n) for n in range(len(tokens))] == tokens
    assert encode(tokenizer, "the ab") == [len(tokens) - n for n in (1, 3, 2)]


@pytest.mark.parametrize("names", [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_merge_is_two_tokens_with_one_space_between(names, end, tmp_path):
    odd = ["\u00a0a", "\u2028b", "\u3000"]
    vocab = [*LETTERS, *odd, odd[0] + odd[1], "th", "the"]
    (tmp_path / names[0]).write_bytes(
        "\ufeff".encode() + json.dumps({v: n for n, v in enumerate(vocab)}).encode()
    )
    merges = ["\ufeff#version: 0.2", f"{odd[0]} {odd[1]}", "t h", "th e", ""]
    (tmp_path / names[1]).write_bytes(end.join(merges).encode())
    tokenizer = Subwords(str(tmp_path)).read()
    assert encode(tokenizer, "the") == [len(vocab) - 1]
    (tmp_path / names[1]).write_text("t h\nt h e\n")
    with pytest.raises(UserError, match="line 2 is not two tokens"):
        Subwords(str(tmp_path)).read()


def test_files_of_one_vocabulary_stay_apart_and_the_digest_is_that_of_before(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"[UNK]\n\0\na\0b\n")
    tokenizer = Subwords(str(tmp_path / "vocab.txt")).read()
    assert tokenizer.vocab_size == 3 and tokenizer.number("a\0b") == 2
    contents = [json.dumps({c: n for n, c in enumerate(LETTERS)}).encode(), b"#version: 0.2\n"]
    for name, content in zip(("encoder.json", "vocab.bpe"), contents, strict=True):
        (tmp_path / name).write_bytes(content)
    digest = hashlib.sha256(b"\0".join(contents)).hexdigest()
    assert Subwords(str(tmp_path)).read().sha256 == digest


@pytest.mark.parametrize(
    "content, why",
    [
        ("[UNK]\nthe\nof\nthe\n", "line 4 repeats the token 'the' of line 2"),
        ("[UNK]\n\nthe\n", "line 2 is blank"),
        ("[UNK]\nthe\n\n", "line 3 is blank"),
        ("[PAD]\nthe\n", r"has no [UNK]"),
        ("\ufeff[PAD]\n[UNK ]\n", r"has no [UNK]"),
    ],
)
def test_what_is_wrong_with_a_vocabulary_is_said(content, why, tmp_path):
    assert why in mistake(tmp_path, content, "vocab.txt")


# Models


def test_unigram_has_its_token_for_the_unknown_by_number(tmp_path):
    tokenizer = saved(tmp_path, unigram())
    assert tokenizer.unknown == tokenizer.number("<unk>") == 0
    text = "the talking people of the land"
    assert tokenizer.decode(encode(tokenizer, text)) == text
    assert 0 in encode(tokenizer, "the ☃") and 0 not in encode(tokenizer, text)


@pytest.mark.parametrize("make", [unigram, metaspace_bpe])
def test_bytes_in_the_vocabulary_leave_nothing_unknown(make, tmp_path):
    tokenizer = saved(tmp_path, with_byte_fallback(make()))
    assert tokenizer.unknown is None
    for text in ("the ☃ and 日本 é", "\x00 the\nstate"):
        assert tokenizer.decode(encode(tokenizer, text)) == text
    assert "256 bytes" not in mistake(tmp_path, with_byte_fallback(make(), 255))
    assert "1 are missing, such as <0xFF>" in mistake(tmp_path, with_byte_fallback(make(), 255))


@pytest.mark.parametrize(
    "model, why",
    [
        (
            models.WordLevel({"the": 0}, unk_token="<unk>"),
            "has no <unk>, a token for what it lacks",
        ),
        (
            models.WordPiece({"the": 0}, unk_token="<oov>"),
            "has no <oov>, a token for what it lacks",
        ),
        (models.BPE({"t": 0}, []), "neither all bytes (it is not by bytes) nor a token"),
        (models.BPE({"t": 0}, [], unk_token="<unk>"), "nor a token for what it lacks (<unk>)"),
        (models.Unigram([("t", -1.0)], None), "nor a token for what it lacks (unk_id)"),
    ],
)
def test_a_model_that_would_lose_text_is_unsupported_for_its_true_reason(model, why, tmp_path):
    assert why in mistake(tmp_path, Tokenizer(model).to_str())


def test_letters_of_bytes_without_their_pre_tokenizer_are_not_all_bytes(tmp_path):
    whole = byte_level() | {"pre_tokenizer": None}
    assert "it is not by bytes" in mistake(tmp_path, whole)


def test_a_run_keeps_a_vocabulary_of_any_name(tmp_path):
    for name, whole in (("mine.json", unigram()), ("words.txt", "[UNK]\nthe\n")):
        tokenizer = saved(tmp_path, whole, name)
        tokenizer.copy(tmp_path / name.partition(".")[0])
        assert Subwords(str(tmp_path / name.partition(".")[0])).read() == tokenizer


# What is random


def unsettled(whole):
    """The same with everything on that makes tokens depend on more than the text."""
    model = whole["model"] | {"dropout": 0.5}
    ends = processors.TemplateProcessing(single="the $A the", special_tokens=[("the", 1)])
    made = Tokenizer.from_str(json.dumps(whole))
    made.enable_truncation(9)
    made.enable_padding(length=40)
    made.post_processor = ends
    return json.loads(made.to_str()) | {"model": model}


@pytest.mark.parametrize("make", [byte_level, metaspace_bpe, unigram])
def test_tokens_depend_on_the_text_alone(make, tmp_path):
    whole = make()
    if whole["model"]["type"] == "BPE" and whole["pre_tokenizer"]["type"] == "Metaspace":
        whole = with_byte_fallback(whole)
    settled = encode(saved(tmp_path, whole), LINES[0])
    tokenizer = saved(tmp_path, unsettled(whole))
    assert all(encode(tokenizer, LINES[0]) == settled for _ in range(20))
    assert tokenizer.decode(np.array(settled)) == LINES[0]


def test_a_scorer_of_the_transformers_library_has_no_dropout_either():
    made = Tokenizer.from_str(json.dumps(unsettled(byte_level())))
    before = {tuple(made.encode(LINES[0]).ids) for _ in range(20)}
    without_dropout(SimpleNamespace(backend_tokenizer=made))
    assert len({tuple(made.encode(LINES[0]).ids) for _ in range(20)}) == 1 < len(before)
    without_dropout(SimpleNamespace())


def test_sentencepiece_takes_the_likeliest_pieces(tmp_path):
    with open(tmp_path / "m.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES),
            model_writer=file,
            vocab_size=24,
            minloglevel=2,
        )
    tokenizer = Subwords(str(tmp_path / "m.model")).read()
    assert all(encode(tokenizer, t) == encode(tokenizer, t) for t in LINES[:20])
    found = [(number, stop) for number, _, stop in tokenizer.spans("the state")]
    assert [n for n, _ in found] == encode(tokenizer, "the state") and found[-1][1] == 9
