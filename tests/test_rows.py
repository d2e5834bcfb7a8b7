"""Documents in rows: what a row holds, that nothing leaks between its texts, and what is counted."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partialmethod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL, on_devices
from test_models import SMALL as MODEL
from test_models import params_of

from configs.smoke import get_config
from diffusion.any_order import AnyOrder
from diffusion.autoregressive import Autoregressive
from diffusion.bfn import BFN
from diffusion.mdlm import MDLM
from diffusion.udlm import UDLM
from experiments import cli
from experiments.data import documents
from experiments.data.pipeline import training_batches
from experiments.data.rows import make_rows
from experiments.data.text import Text, prepare
from experiments.data.tokenizers import Bytes
from experiments.errors import UserError
from experiments.training.train_step import init_state, make_train_step
from models.backbone import Network
from samplers.autoregressive import LeftToRight

SIZES = [3, 5, 4, 1, 12, 7, 2, 2, 30, 6]
STARTS = np.cumsum([0, *SIZES])
TOKENS = np.arange(STARTS[-1]) + 1


@pytest.mark.parametrize("pack", [False, True])
def test_every_token_is_in_one_row_once_and_documents_stay_whole(pack):
    rows = make_rows(TOKENS, STARTS, 12, pack)
    tokens, segments = rows.read(np.arange(len(rows)))
    assert tokens.shape == segments.shape == (len(rows), 12) and rows.count == len(TOKENS)
    np.testing.assert_array_equal(tokens[segments > 0], TOKENS)
    assert not tokens[segments == 0].any()
    pieces = [
        t[s == n] for t, s in zip(tokens, segments, strict=True) for n in range(1, s.max() + 1)
    ]
    expected = [3, 5, 4, 1, 12, 7, 2, 2, 12, 12, 6, 6]  # that of 30 tokens in three
    assert [len(piece) for piece in pieces] == expected
    assert [int(s.max()) for s in segments] == ([3, 1, 1, 3, 1, 1, 2] if pack else [1] * 12)


@pytest.mark.parametrize("seed", range(20))
def test_a_packed_row_ends_only_where_the_next_document_does_not_fit(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, rng.choice([4, 12, 40]), size=rng.integers(0, 200))
    pieces = [min(12, size - at) for size in sizes for at in range(0, size, 12)]
    rows = make_rows(None, np.cumsum([0, *sizes]), 12, True)
    expected, room = [], 0
    for piece in pieces:
        if piece > room:
            expected.append([])
            room = 12
        expected[-1].append(piece)
        room -= piece
    assert list(rows.stops - rows.starts) == [sum(row) for row in expected]
    assert list(rows.starts) == list(np.cumsum([0, *map(sum, expected)])[:-1])
    assert list(rows.segments) == list(np.cumsum([0, *pieces])[:-1])


def test_batches_of_rows_take_each_once_an_epoch_and_depend_on_seed_and_number_alone():
    rows = make_rows(TOKENS, STARTS, 12, True)
    take = lambda **o: [  # noqa: E731
        (x, given["segments"])
        for (x, given), _ in zip(training_batches(rows, 12, 4, 3, **o), range(7), strict=False)
    ]
    straight = take()
    firsts = np.concatenate([x[:, 0] for x, _ in straight])
    assert all(sorted(firsts[n : n + 7]) == sorted(firsts[:7]) for n in (7, 14, 21))
    assert list(firsts[:7]) != list(firsts[7:14])
    halves = [take(local_rows=range(2 * p, 2 * p + 2)) for p in range(2)]
    for (x, segments), *parts in zip(straight, *halves, strict=True):
        np.testing.assert_array_equal(x, np.concatenate([part[0] for part in parts]))
        np.testing.assert_array_equal(segments, np.concatenate([part[1] for part in parts]))
    np.testing.assert_array_equal(take(start=2)[0][0], straight[2][0])


SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 0]])


@pytest.mark.parametrize("block_length", [None, 1])
@pytest.mark.parametrize("attention", ["transposed", "xla"])
def test_a_packed_text_comes_out_as_it_does_alone(block_length, attention):
    model = replace(MODEL, block_length=block_length, attention=attention)
    params, t = params_of(model), jnp.full((1, 1), 0.4)
    z = jnp.array([[1, 2, 3, 4, 5, 0]])
    packed = model.apply(params, z, t, segments=SEGMENTS)
    for part in (slice(0, 3), slice(3, 5)):
        alone = model.apply(params, z[:, part], t)
        np.testing.assert_allclose(packed[:, part], alone, rtol=2e-4, atol=2e-5)
    assert np.abs(packed - model.apply(params, z, t)).max() > 0.01


OBJECTIVES = {
    "mdlm": MDLM(7),
    "udlm": UDLM(7),
    "bfn": BFN(7),
    "autoregressive": Autoregressive(7),
    "any-order": AnyOrder(MDLM(7)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_neighbour_and_no_padding_changes_a_loss(name):
    objective = OBJECTIVES[name]
    model = replace(MODEL, block_length=getattr(objective, "block_length", None))
    network = Network(model, params_of(model), {"segments": SEGMENTS})

    def loss(x0):
        terms = objective.bound_terms(
            jax.random.key(1), network, jnp.array([x0]), jnp.full((1, 1), 0.7)
        )
        return np.asarray(sum(terms.values()))[0]

    one = loss([1, 2, 3, 4, 5, 0])
    np.testing.assert_allclose(loss([1, 2, 3, 6, 0, 4])[:3], one[:3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss([6, 5, 4, 4, 5, 2])[3:5], one[3:5], rtol=1e-4, atol=1e-5)
    other = loss([1, 2, 4, 4, 5, 0])
    assert np.abs(other[:3] - one[:3]).max() > 1e-3  # of its own text it does
    if name == "any-order":
        assert one[5] == 0


@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_takes_the_mean_over_tokens_that_are_no_padding(accumulation):
    """Rows of 6 and of 1 token in two microbatches: for a uniform distribution the mean is log V."""
    base = get_config()
    config = replace(
        base,
        process=Autoregressive(7),
        sampler=LeftToRight(),
        model=replace(MODEL, block_length=1),
        train=replace(base.train, batch_size=2, accumulation=accumulation),
    )
    x0 = jnp.array([[1, 2, 3, 4, 5, 0], [1, 0, 0, 0, 0, 0]]).reshape(accumulation, -1, 6)
    segments = jnp.array([[1] * 6, [1, 0, 0, 0, 0, 0]]).reshape(x0.shape)
    _, loss = make_train_step(config)(init_state(config), x0, {"segments": segments})
    np.testing.assert_allclose(loss, np.log(7), rtol=1e-5)  # the head is 0 at first


def test_packed_likelihoods_are_those_of_the_texts_apart():
    model = replace(MODEL, block_length=1)
    params, x0 = params_of(model), jnp.array([[1, 2, 3, 4, 5, 0]])
    packed = Autoregressive(7).log_p(Network(model, params, {"segments": SEGMENTS}), x0)
    for part in (slice(0, 3), slice(3, 5)):
        alone = Autoregressive(7).log_p(Network(model, params), x0[:, part])
        np.testing.assert_allclose(packed[:, part], alone, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("length", [3, 5])
def test_any_order_of_padded_rows_is_that_of_the_text_without_padding(length):
    """One token stands for all that are masked: for a uniform distribution every number of known tokens
    gives length x log V, and exactly the others are masked."""
    x0 = jnp.array([[1, 2, 3, 4, 5, 0, 0]])

    class Uniform:
        segments = (jnp.arange(7) < length).astype(int)[None]

        def __call__(self, z, t):
            return jnp.zeros((*z.shape, 7))

    for known in range(length):
        u = jnp.full((1, 1), (known + 0.5) / length)
        terms = AnyOrder(MDLM(7)).bound_terms(jax.random.key(known), Uniform(), x0, u)["any order"]
        masked = np.asarray(terms)[0] > 0
        assert masked.sum() == length - known and not masked[length:].any()
        np.testing.assert_allclose(terms.sum(), length * np.log(7), rtol=1e-5)


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
        "corpus.json", "documents.npy", "tokens.bin",
    ]  # fmt: skip


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


@pytest.mark.parametrize("devices", [2, 8])
def test_devices_change_no_number(devices, lines, tmp_path):
    assert train("mdlm", tmp_path / "w", lines, "data.rows=pack") == 0
    alone = evaluate(tmp_path / "w")
    code = (
        "import sys; from experiments import cli; sys.exit(cli.guarded('evaluate', sys.argv[1:]))"
    )
    arguments = ["--workdir", str(tmp_path / "w"), "--split", "test", "--num-times", "2"]
    subprocess.run(
        [sys.executable, "-c", code, *arguments], env=on_devices(devices), timeout=300, check=True
    )
    (path,) = (tmp_path / "w" / "records").glob("test-*.json")
    record = json.loads(path.read_text())
    assert record["device"].startswith(f"{devices} x ") and record["tokens"] == alone["tokens"]
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
        ("block4", [], "BlockDiffusion takes a row for one text"),
        ("genmd4", [], "GenMD4 takes a row for one text"),
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
