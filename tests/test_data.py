"""Alphabets, corpora on disk, crops and chunks, and every mistake a user can make with text."""

import gzip
import lzma
import zipfile

import numpy as np
import pytest

from experiments.data.pipeline import evaluation_batches, training_batches, training_starts
from experiments.data.text import Text, prepare
from experiments.data.tokenizers import Bytes, Characters, Letters27
from experiments.errors import UserError
from experiments.evaluation.ngram import ngram_nats

LINE = "the quick brown fox jumps over the lazy dog "


@pytest.fixture
def text(tmp_path):
    def make(content=LINE * 100, name="corpus.txt", **settings):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="")
        settings = {
            "path": str(path),
            "cache_dir": str(tmp_path / "cache"),
            "length": 16,
        } | settings
        return Text(**settings)

    return make


def whole(corpus):
    return corpus.tokenizer.decode(np.asarray(corpus.tokens))


def test_text_round_trips_and_splits_cover_it(text):
    corpus = prepare(text())
    assert whole(corpus) == LINE * 100
    n = len(corpus.tokens)
    assert corpus.bounds == {
        "train": (0, int(0.9 * n)),
        "validation": (int(0.9 * n), int(0.95 * n)),
        "test": (int(0.95 * n), n),
    }
    assert isinstance(corpus.tokens, np.memmap) and corpus.tokens.dtype == np.uint8


def test_second_reading_comes_from_the_cache_and_a_broken_cache_is_rebuilt(text, tmp_path):
    data = text()
    prepare(data)
    (folder,) = (tmp_path / "cache").iterdir()
    stamp = (folder / "tokens.bin").stat().st_mtime_ns
    prepare(data)
    assert (folder / "tokens.bin").stat().st_mtime_ns == stamp
    (folder / "tokens.bin").write_bytes(b"cut")
    assert whole(prepare(data)) == LINE * 100
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]
    prepare(text(LINE * 50))  # another content under the same name is another corpus
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("kind", ["xz", "gz", "zip"])
def test_compressed_files_and_cut_short_ones(text, tmp_path, kind):
    path = tmp_path / f"corpus.{kind}"
    raw = (LINE * 2000).encode()
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("text8", raw)
    else:
        path.write_bytes({"xz": lzma, "gz": gzip}[kind].compress(raw))
    data = text(path=str(path))
    assert whole(prepare(data)) == LINE * 2000
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="damaged or cut short"):
        prepare(data)


def test_declared_split_points(text):
    corpus = prepare(text(split_points=(1000, 1100, 1200)))
    assert corpus.bounds["test"] == (1100, 1200)
    with pytest.raises(
        UserError, match=r"split_points end at 9000, but corpus\.txt has 4400 tokens"
    ):
        prepare(text(split_points=(1000, 1100, 9000)))


def test_directory_with_named_splits(text, tmp_path):
    for name, letter in [("train", "a"), ("valid", "b"), ("test", "c")]:
        data = text(letter * 40, f"d/ptb.{name}.txt", path=str(tmp_path / "d"))
    corpus = prepare(data)
    for name, letter in [("train", "a"), ("validation", "b"), ("test", "c")]:
        assert corpus.tokenizer.decode(corpus.split(name, 16)) == letter * 40


def test_named_splits_are_those_that_split_points_say_or_it_is_told(text, tmp_path):
    for name, count in (("test", 20), ("train", 60), ("valid", 30)):
        text(LINE * count, f"corpus/{name}.txt")
    sizes = [len(LINE) * n for n in (60, 90, 110)]
    data = text(path=str(tmp_path / "corpus"), split_points=tuple(sizes))
    assert [stop for _, stop in prepare(data).bounds.values()] == sizes
    with pytest.raises(UserError, match=r"end at \[2640, 3960, 4840\]; leave it out"):
        prepare(text(path=str(tmp_path / "corpus"), split_points=(1000, 1100, 1200)))


def test_a_prepared_folder_says_what_it_is_and_may_lack_splits(text, tmp_path):
    text(LINE * 20, "corpus/test.txt")
    (tmp_path / "corpus" / "dataset.json").write_text('{"name": "ptb"}')
    corpus = prepare(text(path=str(tmp_path / "corpus")))
    assert corpus.dataset == "ptb" and corpus.bounds["test"] == (0, 20 * len(LINE))
    with pytest.raises(UserError, match="the train split has 0 tokens"):
        corpus.split("train", 1)
    assert prepare(text()).dataset is None
    for broken in ("{", "[]", "{}"):
        (tmp_path / "corpus" / "dataset.json").write_text(broken)
        with pytest.raises(UserError, match=r"dataset\.json is damaged"):
            prepare(text(path=str(tmp_path / "corpus")))


def test_directory_of_plain_files_is_joined_in_order(text, tmp_path):
    text("aa", "d/1.txt")
    data = text("bb", "d/2.txt", path=str(tmp_path / "d"), tokenizer=Characters())
    assert whole(prepare(data)) == "aa\nbb"


def test_character_outside_the_alphabet_is_named_with_its_offset(text):
    content = LINE * 3 + "Ä" + LINE
    with pytest.raises(UserError) as error:
        prepare(text(content))
    message = str(error.value)
    assert f"character 'Ä' at offset {3 * len(LINE)}" in message
    assert "corpus.txt" in message and "data.tokenizer.normalize=True" in message


def test_normalisation_is_text8s(text):
    content = "Anarchism, in 1984:  «Ünder» 2\n\nmen"
    corpus = prepare(text(content, tokenizer=Letters27(normalize=True)))
    assert whole(corpus) == "anarchism in one nine eight four nder two men"


def test_normalisation_does_not_depend_on_chunks():
    content, tokenizer = "A 1  b.. C 22 d\n " * 5, Letters27(normalize=True)
    once = np.concatenate(list(tokenizer.encode([content], "")))
    for size in (1, 2, 3, 7):
        chunks = [content[i : i + size] for i in range(0, len(content), size)]
        np.testing.assert_array_equal(np.concatenate(list(tokenizer.encode(chunks, ""))), once)


@pytest.mark.parametrize("content", ["naïve café\n" * 30, "日本語のテキスト" * 40])
def test_characters_and_bytes_take_any_text(text, content):
    corpus = prepare(text(content, tokenizer=Characters()))
    assert whole(corpus) == content and corpus.tokenizer.vocab_size == len(set(content))
    corpus = prepare(text(content, tokenizer=Bytes()))
    assert whole(corpus) == content
    assert corpus.tokenizer.count_characters(corpus.tokens) == len(content) < len(corpus.tokens)


def test_what_is_not_utf8_is_told_and_taken_as_bytes(text, tmp_path):
    data = text(tokenizer=Characters())
    (tmp_path / "corpus.txt").write_bytes(b"abc\xff\xfe" * 40)
    with pytest.raises(UserError, match="not UTF-8"):
        prepare(data)
    corpus = prepare(Text(data.path, Bytes(), 16, None, data.cache_dir))
    assert bytes(corpus.tokens) == b"abc\xff\xfe" * 40


def test_missing_empty_and_short_texts(text, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        prepare(text(path=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="contains no text"):
        prepare(text(""))
    (tmp_path / "void").mkdir()
    with pytest.raises(UserError, match="without files"):
        prepare(text(path=str(tmp_path / "void")))
    with pytest.raises(UserError, match=r"validation split has 220 tokens.*data\.length = 256"):
        prepare(text()).split("validation", 256)
    with pytest.raises(UserError, match="split 'tset'"):
        prepare(text()).split("tset", 1)


def test_cache_that_cannot_be_written_is_one_line(text, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache_dir"):
        prepare(text(cache_dir=str(tmp_path / "file" / "below")))


def test_embedded_corpus_is_whole_and_split_by_address():
    corpus = prepare(Text())
    sizes = {name: b - a for name, (a, b) in corpus.bounds.items()}
    assert sum(sizes.values()) == 10_823_823  # 233 addresses joined, less the two cuts
    assert 0.04 < sizes["test"] / len(corpus.tokens) < 0.06
    start = corpus.tokenizer.decode(corpus.split("train", 1)[:40])
    assert start == "fellow citizens of the senate and house "


# The pipeline


def test_crops_are_uniform_runs_of_the_text():
    tokens = np.arange(2000, dtype=np.uint16)
    examples = training_starts(tokens, 10, seed=0)
    starts = np.array([examples[e] for e in range(20_000)])
    rows, _ = next(training_batches(tokens, 10, 50, 0))
    for start, row in zip(starts[:50], rows, strict=True):
        np.testing.assert_array_equal(row, np.arange(start, start + 10))
    assert starts.min() == 0 and starts.max() == 1990  # the first and the last crop there is
    counts = np.bincount(starts // 100, minlength=20)[:-1]
    assert np.abs(counts - 20_000 * 100 / 1991).max() < 5 * np.sqrt(1000)
    epoch = np.sort(starts[:200])  # one from each stratum, so never two strata apart
    assert (np.diff(epoch) > 0).all() and np.diff(epoch).max() < 20
    assert (starts[:200] != starts[200:400]).any() and (starts[:200] != epoch).any()


def test_batches_depend_on_seed_and_index_alone():
    tokens = np.random.default_rng(0).integers(0, 27, 5000).astype(np.uint8)
    take = lambda n, **o: [  # noqa: E731
        b for (b, _), _ in zip(training_batches(tokens, 16, 8, 1, **o), range(n), strict=False)
    ]
    straight = take(6)
    np.testing.assert_array_equal(take(2, start=4), straight[4:])
    halves = [take(6, local_rows=range(4 * p, 4 * p + 4)) for p in range(2)]
    for whole, first, second in zip(straight, *halves, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate([first, second]))
    other, _ = next(training_batches(tokens, 16, 8, 2))
    assert (other != straight[0]).any()
    start = training_starts(tokens, 16, 1)[3 * 8 + 5]
    np.testing.assert_array_equal(straight[3][5], tokens[start : start + 16])


@pytest.mark.parametrize("size", [64, 160, 167, 7])
def test_evaluation_covers_every_token_once(size):
    tokens = np.arange(size, dtype=np.uint8)
    seen = [row for rows, _, n in evaluation_batches(tokens, 16, 4) for row in rows[:n]]
    np.testing.assert_array_equal(np.concatenate(seen), tokens)
    assert {len(rows) for rows, *_ in evaluation_batches(tokens, 16, 4)} == {4}


# Baselines


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngram_is_a_distribution(order):
    train = np.random.default_rng(0).integers(0, 3, 40)
    every = np.stack(np.meshgrid(*[range(3)] * 4, indexing="ij"), -1).reshape(-1)
    nats = ngram_nats(train, every, 4, order, 3).reshape(-1, 4).sum(1)
    np.testing.assert_allclose(np.exp(-nats).sum(), 1, rtol=1e-12)


def test_ngram_learns_what_it_can_count():
    train = np.tile([0, 1, 2, 2], 500)
    cost = [ngram_nats(train, train, 100, n, 3).mean() for n in (1, 2, 3)]
    np.testing.assert_allclose(cost[0], -(0.5 * np.log(0.25) + 0.5 * np.log(0.5)), rtol=2e-3)
    assert cost[0] > cost[1] > cost[2] and cost[2] < 0.1
