"""Mixtures of texts: proportions, one order whatever the batch, resumption, bounds of each source."""

import json
import re

import numpy as np
import pytest
from conftest import SMALL

from experiments import cli
from experiments.data import interleaving
from experiments.data.interleaving import Interleaved, apportioned
from experiments.data.pipeline import training_batches, training_starts
from experiments.data.rows import make_rows
from experiments.data.text import Text, prepare
from experiments.data.tokenizers import Characters
from experiments.errors import UserError
from experiments.evaluation.record_files import read_record
from experiments.sample_metrics.record import real_texts

CONFIG = "configs/sotu/mdlm.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two texts of letters of their own, so that a row tells its source."""
    folder = tmp_path_factory.mktemp("texts")
    random = np.random.default_rng(0)
    for name, letters, size in (("low", "abc ", 3000), ("high", "xyz ", 9000)):
        (folder / f"{name}.txt").write_text("".join(random.choice(list(letters), size)))
    return folder


def mixture(folder, **settings):
    sources = str(folder / "low.txt"), str(folder / "high.txt")
    return Text(**{"sources": sources, "length": 16, "cache_dir": str(folder / "cache")} | settings)


def rows_of(text, number, batch=8, seed=3, **options):
    batches = training_batches(text, 16, batch, seed, **options)
    return np.concatenate([rows for (rows, _), _ in zip(batches, range(number), strict=False)])


def from_high(rows):
    return (rows >= 24).any(1)  # x, y or z


def test_rows_come_from_sources_by_their_weights_wherever_they_stand_in_a_batch(folder):
    text = prepare(mixture(folder, weights=(1, 3))).training_text(16, "wrap")
    high = np.array([text.order(0)(e)[0] for e in range(3 * 4096)])
    assert (high.reshape(3, 4096).sum(1) == 3072).all()  # exact over a block
    by_place = high.reshape(-1, 4).mean(0)  # of rows of a batch, whose times rise with their place
    assert np.abs(by_place - 0.75).max() < 5 * np.sqrt(0.75 * 0.25 / 3072)
    assert (np.array([text.order(1)(e)[0] for e in range(4096)]) != high[:4096]).any()
    rows = rows_of(text, 8)
    assert from_high(rows).tolist() == (high_of := [text.order(3)(e)[0] for e in range(64)])
    assert 0 < sum(high_of) < 64


def test_each_source_goes_through_its_own_epochs_as_it_would_alone(folder):
    text = prepare(mixture(folder, weights=(1, 3))).training_text(16, "wrap")
    place_of = text.order(3)
    for source in range(2):
        places = [place for s, place in map(place_of, range(3 * 4096)) if s == source]
        assert sorted(places) == list(range(len(places)))  # none twice, none left out
    rows, places = rows_of(text, 4), [place_of(e) for e in range(32)]
    alone = [training_starts(one, 16, 3) for one in text.texts]
    for row, (source, place) in zip(rows, places, strict=True):
        start = alone[source][place]
        np.testing.assert_array_equal(row, text.texts[source][start : start + 16])


def test_batches_depend_on_seed_and_index_alone(folder, monkeypatch):
    monkeypatch.setattr(interleaving, "_BLOCK", 32)  # so that batches reach over several
    text = prepare(mixture(folder, weights=(0.3, 0.7))).training_text(16, "wrap")
    straight = rows_of(text, 12)
    np.testing.assert_array_equal(rows_of(text, 5, start=7), straight[56:])
    np.testing.assert_array_equal(rows_of(text, 48, batch=2), straight)
    halves = [rows_of(text, 12, local_rows=range(4 * p, 4 * p + 4)) for p in range(2)]
    joined = np.concatenate([half.reshape(12, 4, 16) for half in halves], axis=1)
    np.testing.assert_array_equal(joined.reshape(-1, 16), straight)


def test_a_mixture_of_one_text_is_that_text(folder):
    mixed = prepare(mixture(folder, sources=(str(folder / "low.txt"),)))
    alone = prepare(mixture(folder, sources=(), path=str(folder / "low.txt")))
    assert mixed.sha256 == alone.sha256 and mixed.source == alone.source
    assert mixed.bounds == alone.bounds
    for rows in (lambda c: rows_of(c.training_text(16, "wrap"), 30), lambda c: c.split("test", 1)):
        np.testing.assert_array_equal(rows(mixed), rows(alone))
    np.testing.assert_array_equal(mixed.training_tokens(), alone.training_tokens())


def test_rows_of_documents_keep_what_is_given_of_them():
    rows = [make_rows(np.full(30, n), np.arange(0, 31, 4 + n), 6, True) for n in (1, 2)]
    batch, given = next(training_batches(Interleaved(tuple(rows), (0.5, 0.5)), 6, 32, 0))
    assert set(batch[given["segments"] > 0].ravel()) == {1, 2}
    assert ((batch > 0) == (given["segments"] > 0)).all()


def test_texts_joined_are_all_of_each_and_statistics_are_in_proportion(folder):
    corpus = prepare(mixture(folder, weights=(1, 1)))
    alone = [part for part, _ in corpus.weighted()]
    joined = np.concatenate([part.split("validation", 1) for part in alone])
    np.testing.assert_array_equal(corpus.split("validation", 1), joined)
    assert {n: b - a for n, (a, b) in corpus.bounds.items()} == {
        name: sum(len(part.split(name, 1)) for part in alone) for name in corpus.bounds
    }
    tokens = corpus.training_tokens()
    assert len(tokens) == 2 * 2700
    low, high = (sum((tokens == n).sum() for n in numbers) for numbers in ((1, 2, 3), (24, 25, 26)))
    assert abs(low - high) < 5 * np.sqrt(2700 * 3 / 16 * 2)
    texts = real_texts(prepare(mixture(folder, weights=(1, 3))), "validation", ["a" * 20] * 8)
    assert [bool(set("xyz") & set(text)) for text in texts] == [False] * 2 + [True] * 6
    by_size = [weight for _, weight in prepare(mixture(folder)).weighted()]
    np.testing.assert_allclose(by_size, (0.25, 0.75))


def test_an_alphabet_of_the_text_is_that_of_all_sources(folder):
    corpus = prepare(mixture(folder, tokenizer=Characters()))
    assert corpus.tokenizer.symbols == " abcxyz"
    decoded = corpus.tokenizer.decode(corpus.split("train", 1))
    assert decoded.startswith((folder / "low.txt").read_text()[:2700])
    resumed = prepare(mixture(folder, tokenizer=corpus.tokenizer))
    assert resumed.sha256 == corpus.sha256


def test_documents_of_sources_follow_one_another(folder):
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({"prompt": name, "answer": str(n)}) + "\n" for n in range(40))
        )
    sources = tuple(str(folder / f"{name}.jsonl") for name in ("a", "b"))
    data = mixture(folder, sources=sources, rows="pair", tokenizer=Characters())
    corpus = prepare(data)
    rows = corpus.sequences("train", 16, "pair")
    texts = [
        corpus.tokenizer.decode(rows.tokens[a:b])
        for a, b in zip(rows.starts, rows.stops, strict=True)
    ]
    assert texts == [name + str(n) for name in "ab" for n in range(len(rows) // 2)]


def test_weights_are_apportioned_to_whole_numbers_that_sum_to_all():
    assert apportioned((1, 1, 1), 4096, least=1) == [1366, 1365, 1365]
    assert apportioned((1e-9, 1), 4096, least=1) == [1, 4095]
    assert apportioned((0.2, 0.8), 5) == [1, 4]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"weights": (1.0,)}, "1 for 2 sources"),
        ({"weights": (1.0, 0.0)}, "must be above 0"),
        ({"path": "a.txt"}, "set one of them"),
        ({"sources": ("a.txt", "a.txt")}, "names a text twice"),
        ({"labels": "folder"}, "labels = folder is for one text"),
        ({"sources": (), "weights": (1.0, 2.0)}, "2 for 0 sources"),
        ({"sources": (None, "a"), "rows": "pair"}, "embedded corpus"),
    ],
)
def test_sources_that_no_text_follows_are_rejected(settings, words, folder):
    with pytest.raises(ValueError, match=words):
        mixture(folder, **settings)


def test_a_short_source_is_named(folder, rejected):
    (folder / "short.txt").write_text("abc" * 20)
    data = mixture(folder, sources=(str(folder / "low.txt"), str(folder / "short.txt")))
    assert rejected(prepare(data).check_split, "validation", 16).startswith("short.txt: the valid")
    (folder / "odd.txt").write_text("ab1" * 100)
    data = mixture(folder, sources=(str(folder / "low.txt"), str(folder / "odd.txt")))
    assert "odd.txt" in rejected(prepare, data)


def test_sources_of_one_name_are_told_apart(folder):
    for name in ("p", "q"):
        (folder / name).mkdir()
        (folder / name / "x.txt").write_text("abc " * 200)
    sources = tuple(str(folder / name / "x.txt") for name in ("p", "q"))
    assert prepare(mixture(folder, sources=sources)).source == "p/x.txt + q/x.txt"


@pytest.fixture(scope="module")
def runs(folder):
    """A run of two steps, one of a step and another, and the settings of both."""
    sources = (str(folder / "low.txt"), str(folder / "high.txt"))
    settings = [
        *SMALL, "data.length=16", f"data.sources={sources}", "data.weights=(3, 1)",
        f"data.cache_dir={folder / 'cache'}", "train.eval_every=1", "train.checkpoint_every=1",
        "evaluation.num_times=2",
    ]  # fmt: skip
    words = ["--config", CONFIG, *(word for s in settings for word in ("--set", s))]
    for name, steps in (("straight", (2,)), ("stopped", (1, 2))):
        for number in steps:
            more = ["--workdir", str(folder / name), "--set", f"train.num_steps={number}"]
            assert cli.guarded("train", [*words, *more]) == 0
    return folder


def test_a_run_that_was_stopped_goes_on_bit_for_bit(runs):
    steps = [json.loads((runs / n / "metrics.jsonl").read_text().splitlines()[-1]) for n in
             ("straight", "stopped")]  # fmt: skip
    same = [{k: v for k, v in s.items() if not k.startswith(("perf", "time"))} for s in steps]
    assert same[0] == same[1]
    assert {"eval_sources/low.txt", "eval_sources/high.txt"} <= steps[0].keys()


def test_a_record_has_the_bound_of_each_source_and_their_mean(runs, capsys):
    evaluate = ["--workdir", str(runs / "straight"), "--split", "test"]
    assert cli.guarded("evaluate", evaluate) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\n  low.txt, 75 %: \d\.\d+ \+- .*\n  high.txt, 25 %: ", printed)
    record = read_record(runs / "straight" / "records" / "test-2.json")
    low, high = record["sources"]
    assert record["value"] == pytest.approx(0.75 * low["value"] + 0.25 * high["value"])
    error = np.hypot(0.75 * low["standard_error"], 0.25 * high["standard_error"])
    assert record["standard_error"] == pytest.approx(error)
    assert record["tokens"] == low["tokens"] + high["tokens"] == 600
    assert record["source"] == "low.txt + high.txt"
    alone = Text(path=str(runs / "low.txt"), length=16, cache_dir=str(runs / "cache"))
    assert low["split_sha256"] == prepare(alone).sha256["test"]
    as_split = ["--set", 'data.splits=("*", "5%", "5%")']
    text = ["--text", str(runs / "low.txt"), *as_split]
    assert cli.guarded("evaluate", [*evaluate, *text]) == 0
    (other,) = (runs / "straight" / "records").glob("test-2-*.json")
    assert read_record(other)["value"] == low["value"]  # as evaluated alone


def test_a_mixture_record_that_contradicts_its_sources_is_not_believed(runs, tmp_path):
    if not (runs / "straight" / "records" / "test-2.json").exists():
        cli.guarded("evaluate", ["--workdir", str(runs / "straight"), "--split", "test"])
    record = json.loads((runs / "straight" / "records" / "test-2.json").read_text())
    record["sources"][0]["weight"] = 0.25
    (tmp_path / "record.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="nats_per_token is"):
        read_record(tmp_path / "record.json")


def test_other_weights_do_not_continue_a_run(runs, capsys):
    words = ["--config", CONFIG, "--workdir", str(runs / "straight")]
    stored = json.loads((runs / "straight" / "config.json").read_text())["data"]
    settings = [*SMALL, "data.length=16", f"data.sources={tuple(stored['sources'])}",
                f"data.cache_dir={runs / 'cache'}", "data.weights=(1, 1)",
                "evaluation.num_times=2"]  # fmt: skip
    words += [word for s in settings for word in ("--set", s)]
    assert cli.guarded("train", words) == 2
    assert "data.weights: (3.0, 1.0) -> (1.0, 1.0)" in capsys.readouterr().err


def test_the_weighted_mean_of_records_weighs_the_characters_of_a_token():
    from experiments.evaluation.units import Estimate, weighted_mean

    parts = [
        Estimate(np.full((4, 2), 10.0), np.full(4, 5), 100),  # 2 nats a token of 5 characters
        Estimate(np.full((2, 2), 5.0), np.full(2, 5), 20),  # 1 nat a token of 2
    ]
    mean = weighted_mean(parts, (0.5, 0.5))
    assert mean.nats_per_token == pytest.approx(1.5)
    assert mean.bits == pytest.approx(1.5 / 3.5 / np.log(2))
