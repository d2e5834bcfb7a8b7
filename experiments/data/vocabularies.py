"""The files of subword tokenizers, read by the libraries that they were made with.

They are vocabularies, merges and tables of pieces: data, from which nothing is executed. The tokens of a
text depend on the text alone: what a file says of dropout, sampling, padding, cutting or tokens to add
is switched off.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from experiments.errors import UserError
from experiments.plain_json import parse

KINDS = (
    "a vocab.txt of WordPiece (BERT), a folder with encoder.json and vocab.bpe or with vocab.json and "
    "merges.txt (GPT-2), a tokenizer.json of the tokenizers library, or a .model of SentencePiece"
)
_RANDOM = ("dropout", "alpha", "nbest_size")  # of a model in a tokenizer.json
_BYTES = [f"<0x{n:02X}>" for n in range(256)]  # what byte_fallback spells unknown characters with


class Coder(NamedTuple):
    """What the libraries have in common. spans: (number, start, stop) of the tokens of a text, by its
    characters; name: the token of a number; unknown: the number for what the vocabulary lacks."""

    size: int
    encode: Callable[[list[str]], list[list[int]]]
    spans: Callable[[str], list[tuple[int, int, int]]]
    decode: Callable[[list[int]], str]
    number: Callable[[str], int | None]
    name: Callable[[int], str | None]
    unknown: int | None


def find_files(path: Path) -> list[Path]:
    """The files that make up the tokenizer at `path`, a file or a folder, which may not be there."""
    if not path.is_dir():
        return [path]
    pairs = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
    for pair in pairs:
        if all((path / name).is_file() for name in pair):
            return [path / name for name in pair]
    single = [path / name for name in ("tokenizer.json", "vocab.txt", "tokenizer.model")]
    return [file for file in single if file.is_file()][:1] or [path / "encoder.json"]


def read_coder(files: list[Path], contents: list[bytes]) -> Coder:
    """The tokenizer of the files; UserError where text could get lost in it, and whatever the libraries
    raise where it is broken."""
    if files[0].suffix == ".model":
        return _sentencepiece(contents[0])
    texts = [content.decode("utf-8-sig") for content in contents]  # less the mark of byte order
    if len(files) == 2:
        made = _gpt2(files[0], files[1], texts[0], texts[1])
    elif files[0].suffix == ".txt":
        made = _wordpiece(files[0], texts[0])
    else:
        made = _from_json(texts[0])
    numbers = made.get_vocab().values()
    if sorted(numbers) != list(range(len(numbers))):
        raise UserError(
            f"data.tokenizer.path {files[0]}: tokens are not numbered from 0 on, each once; give a "
            "whole vocabulary without repetitions"
        )
    unknown, why = _unknown(made)
    if why:
        raise UserError(
            f"data.tokenizer.path {files[0]}: {why}, so text could be lost; give a complete "
            "vocabulary"
        )

    def encode(texts):
        return [one.ids for one in made.encode_batch(texts, add_special_tokens=False)]

    def spans(text):
        encoding = made.encode(text, add_special_tokens=False)
        return [
            (number, *span) for number, span in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def decode(ids):
        return made.decode(ids, skip_special_tokens=False)

    size = made.get_vocab_size()
    return Coder(size, encode, spans, decode, made.token_to_id, made.id_to_token, unknown)


def _lines(text: str) -> list[str]:
    """The lines of a file, of which \\n alone ends one: tokens may hold what else parts lines."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _wordpiece(file: Path, text: str):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocab: dict[str, int] = {}
    for number, token in enumerate(_lines(text) if text else []):
        where = f"data.tokenizer.path {file}: line {number + 1}"
        if not token:
            raise UserError(f"{where} is blank, but every line is a token; remove it")
        if token in vocab:
            raise UserError(
                f"{where} repeats the token {token!r} of line {vocab[token] + 1}; give a whole "
                "vocabulary without repetitions"
            )
        vocab[token] = number
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    return made


def _gpt2(_: Path, file: Path, vocab: str, text: str):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    merges = []
    for number, line in enumerate(_lines(text), 1):
        if not line or line.startswith("#version"):
            continue
        merge = tuple(line.split(" "))  # tokens may hold other white space
        if len(merge) != 2 or not all(merge):
            raise UserError(
                f"data.tokenizer.path {file}: line {number} is not two tokens with a space between"
            )
        merges.append(merge)
    made = Tokenizer(models.BPE(parse(vocab), merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def _from_json(text: str):
    from tokenizers import Tokenizer

    whole = parse(text)
    if not isinstance(whole, dict) or not isinstance(whole.get("model"), dict):
        return Tokenizer.from_str(text)  # which says what is wrong
    model = {name: value for name, value in whole["model"].items() if name not in _RANDOM}
    pieces = model.get("vocab")
    if isinstance(pieces, list) and model.get("byte_fallback") and model.get("unk_id") is None:
        # The library asks for a number, though what it stands for is then spelled in bytes.
        numbers = {piece[0]: number for number, piece in enumerate(pieces)}
        if numbers.keys() >= set(_BYTES):
            model["unk_id"] = numbers[_BYTES[0]]
    off = dict.fromkeys(("truncation", "padding", "post_processor"))
    return Tokenizer.from_str(json.dumps(whole | {"model": model} | off))


def _unknown(made) -> tuple[int | None, str]:
    """(the number of the token for what the vocabulary lacks, None where it lacks nothing; why text
    could get lost, empty where none can)."""
    from tokenizers import pre_tokenizers

    whole = json.loads(made.to_str())
    model, kind = whole["model"], type(made.model).__name__
    fallback = bool(model.get("byte_fallback"))
    by_bytes = '"type": "ByteLevel"' in json.dumps([whole["normalizer"], whole["pre_tokenizer"]])
    alphabet = _BYTES if fallback else pre_tokenizers.ByteLevel.alphabet() if by_bytes else []
    lacking = [byte for byte in alphabet if made.token_to_id(byte) is None]
    spelled = bool(alphabet) and not lacking and kind in ("BPE", "Unigram")
    if kind == "Unigram":
        name, unknown = "unk_id", model["unk_id"]
    else:
        name = model["unk_token"]
        unknown = None if name is None else made.token_to_id(name)
    if spelled and fallback:
        return None, ""
    if spelled or unknown is not None:
        return unknown, ""
    missing = f"no {name or 'unk_token'}, a token for what it lacks"
    if kind not in ("BPE", "Unigram"):
        return None, f"the vocabulary has {missing}"
    lost = f"{len(lacking)} are missing, such as {lacking[0]}" if lacking else "it is not by bytes"
    return (
        None,
        f"the vocabulary has neither all bytes ({lost}) nor a token for what it lacks ({name})",
    )


def _sentencepiece(content: bytes) -> Coder:
    import sentencepiece

    if not content:  # which the library takes for no model yet, not for a broken one
        raise ValueError("it is empty")
    made = sentencepiece.SentencePieceProcessor(model_proto=content)

    def number(token):
        index = made.piece_to_id(token)
        return None if index == made.unk_id() and token != made.id_to_piece(index) else index

    def encode(texts):
        return made.encode(texts, enable_sampling=False)

    def spans(text):
        mapping = made.encode_as_offset_mapping(text, enable_sampling=False)
        return [(n, *span) for n, span in zip(mapping["ids"], mapping["offsets"], strict=True)]

    size = made.get_piece_size()
    return Coder(size, encode, spans, made.decode, number, made.id_to_piece, made.unk_id())
