"""Cases for what reads tables of numbers and of texts, and vocabularies."""

import io
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
from hypothesis import strategies as st

from experiments.data.reading import Source
from experiments.data.statistics import read_table
from experiments.data.subwords import Subwords
from experiments.data.tables import table_texts
from experiments.errors import UserError
from experiments.sampling.known import encode_known
from experiments.studies.fuzzing.engine import Reader
from experiments.studies.fuzzing.mutations import TEXT, damaged, damaged_folder, dumped, place


def _tables() -> st.SearchStrategy[bytes]:
    def saved(array, **options) -> bytes:
        made = io.BytesIO()
        np.save(made, array, **options)
        return made.getvalue()

    def header(shape: str, kind: str = "<f8") -> bytes:
        text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
        text = text.ljust(117) + b"\n"
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)

    arrays = (
        np.eye(3), np.arange(6).reshape(2, 3), np.ones((2, 2), np.float16), np.zeros((0, 3)), np.ones(3),
        np.ones((2, 2), complex), np.array([["a", "b"]]), np.ones((1, 2), "M8[s]"),
    )  # fmt: skip
    shapes = (
        "(10**18, 1)", "(1000000000000000000, 4)", "(3000000000, 1)", "(-1, 2)", "(0, 10000000000)",
        "(10000000000, 0)", "(2, 2.0)", "2", "(" * 90,
    )  # fmt: skip
    whole = [saved(array) for array in arrays]
    whole += [saved(np.array([[print, {}]], object), allow_pickle=True)]
    whole += [header(shape) for shape in shapes]
    whole += [header("(2, 2)", kind) for kind in ("|O", "<U9", "V8", "<f99", "os.system", "f8,f8")]
    one = st.sampled_from(whole)
    return st.one_of(one, one.flatmap(damaged), one.flatmap(damaged))


def _read_table(content: bytes, folder: Path) -> None:
    (folder / "table.npy").write_bytes(content)
    read_table(str(folder / "table.npy"), "process.kernel.embeddings")


def write_wordpiece(path: Path) -> None:
    """Nothing; a small WordPiece vocabulary is in the file."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[UNK]", "[CLS]", "the", "people", "\u2028", "\x85", "\x0c", *letters]
    path.write_text("\n".join([*words, *(f"##{c}" for c in letters)]) + "\n", newline="\n")


def _tokenizer_files(folder: Path) -> None:
    """A vocabulary of each kind, each in a folder of its own."""
    import sentencepiece

    for name in ("wordpiece", "gpt2", "json", "unigram", "sentencepiece"):
        (folder / name).mkdir(parents=True)
    write_wordpiece(folder / "wordpiece" / "vocab.txt")
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*letters, "th", "the"])}
    (folder / "gpt2" / "encoder.json").write_text(json.dumps(vocabulary))
    (folder / "gpt2" / "vocab.bpe").write_text("#version: 0.2\nt h\nth e\n")
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("t", "h"), ("th", "e")]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    made.decoder = tokenizers.decoders.ByteLevel()
    made.normalizer = tokenizers.normalizers.Replace("a", "b")
    made.save(str(folder / "json" / "tokenizer.json"))
    made.model = tokenizers.models.Unigram([("<unk>", 0.0), *((c, -2.0) for c in "abcdehlopty")], 0)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.enable_truncation(3)
    made.save(str(folder / "unigram" / "tokenizer.json"))
    with open(folder / "sentencepiece" / "tokenizer.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT.splitlines()),
            model_writer=file,
            vocab_size=15,
            minloglevel=2,
        )


def _read_tokenizer(case: tuple[str, bytes | None], folder: Path, source: Path) -> None:
    kind = case[0].split("/")[0]
    place(source, folder, case)
    tokenizer = Subwords(str(folder / kind)).read()
    texts = ["the people, by the people", "", "é\n\0 x" * 9]
    encoded = list(tokenizer.encode(texts, "text"))
    for tokens, again in zip(encoded, tokenizer.encode(texts, "text"), strict=True):
        tokenizer.count_words(tokens)
        assert tokens.tolist() == again.tolist()
    for template in ("the peo_le, _", "_é __ \u2028the ", "_"):
        with suppress(UserError):  # which tells what the vocabulary lacks
            encode_known(tokenizer, 200, "", template, "_")
    tokenizer.decode(np.arange(min(tokenizer.vocab_size or 0, 300)))


def _text_tables(folder: Path) -> Reader:
    """Tables with a column of text, and a description of records, of which a file was changed."""
    folder.mkdir()
    lines = TEXT.splitlines()
    rows = pa.table({"text": [*lines, None], "id": [1] * (len(lines) + 1)})
    pq.write_table(rows, folder / "a.parquet")
    for name, write in (("stream.arrow", pa.ipc.new_stream), ("file.arrow", pa.ipc.new_file)):
        with write(str(folder / name), rows.schema) as writer:
            writer.write_table(rows)
    text = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text"}
    features = {"featuresDict": {"features": {"text": text, "id": {"pythonClassName": "a.B"}}}}
    (folder / "features.json").write_bytes(dumped(features))

    def read(case: tuple[str, bytes | None], out: Path) -> None:
        place(folder, out, case)
        path = out / case[0]
        if case[0] == "features.json":  # and no records beside it
            path = out / "records.array_record"
            path.write_bytes(b"")
        with open(path, "rb") if path.is_file() else io.BytesIO() as stream:
            for _ in table_texts(Source(path, path.name), stream, "text"):
                pass

    return Reader("tables of texts", 200, damaged_folder(folder), read)


def readers(folder: Path) -> list[Reader]:
    """The readers of this file, each with its cases; folder: where they may write."""
    source = folder / "tokenizers"
    _tokenizer_files(source)

    def read_tokenizer(case, folder):
        _read_tokenizer(case, folder, source)

    return [
        Reader("tables (.npy)", 600, _tables(), _read_table),
        Reader("tokenizers", 500, damaged_folder(source), read_tokenizer),
        _text_tables(folder / "tables"),
    ]
