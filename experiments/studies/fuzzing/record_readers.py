"""Cases for what reads results of other commands: records, samples, metrics, grids."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from math import exp, log
from pathlib import Path

from hypothesis import strategies as st

from experiments import compare
from experiments.comparison.published import match
from experiments.comparison.record_groups import Entry, group
from experiments.comparison.record_table import report
from experiments.errors import UserError
from experiments.evaluation.record_files import read_record, stored_record
from experiments.published import SOURCE
from experiments.published.source import published_line
from experiments.sample_metrics.table import table
from experiments.sampling.grid import FILE, SCHEMA, fitted_information
from experiments.sampling.samples_file import common, network_calls, read_samples
from experiments.sampling.samples_writer import SamplesWriter
from experiments.serialization import encode
from experiments.studies.fuzzing.engine import Reader
from experiments.studies.fuzzing.mutations import damaged, dumped, json_text
from experiments.trackers.no_tracker import NoTracker
from experiments.training.metrics import DAMAGED, Metrics, read_metric
from experiments.training.tracking import RUN, tracking
from samplers.remask import ReMDM

_NATS, _ERROR, _WORDS = 0.97, 0.007, 900_000
_WORD = 5_000_000 / _WORDS  # tokens
RECORD = {
    "process": "MDLM", "process_settings": {"vocab_size": 27}, "kind": "bound",
    "value": _NATS / log(2), "unit": "bits per character", "standard_error": _ERROR / log(2),
    "standard_error_over_times": 0.005, "nats_per_token": _NATS,
    "nats_per_token_standard_error": _ERROR, "perplexity_per_token": exp(_NATS),
    "perplexity_per_token_standard_error": exp(_NATS) * _ERROR,
    "terms_nats_per_token": {"prior": 0.17, "diffusion": 0.8},
    "estimator": "mean over 2 stratified times per sequence", "num_times": 2, "seed": 0,
    "sequences": 19532, "tokens": 5_000_000, "characters": 5_000_000,
    "context": {"length": 256, "chunks": "fixed", "packed": True, "bos_or_eos_counted": False,
                "protocol": "wrap", "length_given": False, "added_tokens": ["[CLS]"]},
    "tokenizer": "Letters27", "tokenizer_sha256": "a" * 64, "source": "text8", "split": "test",
    "split_points": [90_000_000, 95_000_000, 100_000_000], "split_sha256": "b" * 64, "ema": True,
    "precision": "float32", "checkpoint_step": 1000, "checkpoint_fingerprint": "c" * 16,
    "device": "1 x cpu", "seconds": 1.0, "version": "0.1.0", "time": "2026-01-01T00:00:00Z",
    "sequences_in_split": 19532, "labels": "none", "dataset": "text8", "words": _WORDS,
    "nats_per_word": _NATS * _WORD, "perplexity_per_word": exp(_NATS * _WORD),
    "perplexity_per_word_standard_error": exp(_NATS * _WORD) * _ERROR * _WORD,
    "confidence_interval_95": [(_NATS + side * _ERROR) / log(2) for side in (-1.96, 1.96)],
}  # fmt: skip
_SAMPLE = {
    "number": 0, "text": "of the people", "seed": 0, "network_calls": 16, "checkpoint_step": 5,
    "checkpoint_fingerprint": "c" * 16, "precision": "float32", "process": "MDLM",
    "sampler": encode(ReMDM()),
}  # fmt: skip
_ABOUT = {name: v for name, v in _SAMPLE.items() if name not in ("number", "text", "network_calls")}
_GRID = {
    "schema": SCHEMA, "process": "MDLM", "split": "validation", "sequences": 4, "checkpoint_step": 5,
    "checkpoint_fingerprint": "c" * 16, "information": [0.5, 1.5], "standard_error": [0.1, 0.2],
}  # fmt: skip
_SOURCE = {
    "family": "mdlm", "files": {"model.safetensors": "d" * 64}, "name": "a/b", "revision": "e" * 40,
    "licence": "mit", "notes": ["a note"], "unknown": [], "options": {"mask": 5},
    "published": {"number": "perplexity at most 23.21", "differs": "in nothing"},
    "config": {"vocab_size": 12}, "keys": {"a.b": "c.a.b"}, "dtypes": {"a.b": "bfloat16"},
}  # fmt: skip
_METRICS = [{"step": n, "train/loss": 2.5, "perf/tokens_per_s": 1e5} for n in (1, 2, 3)]
_ORIGIN = ("seed", "checkpoint_step", "checkpoint_fingerprint", "precision", "process", "sampler")


def _record(content: bytes, folder: Path) -> None:
    (folder / "b.json").write_bytes(content)
    stored_record(folder / "b.json")
    record = read_record(folder / "b.json")
    json.dumps(record, allow_nan=False)  # what is believed is finite
    groups = group([Entry("a", RECORD), Entry("b", record)])
    report(groups, [match(one.entries) for one in groups]).encode()


def _comparison(content: bytes, folder: Path) -> None:
    for name, record in (("a", dumped(RECORD)), ("b", content)):
        (folder / f"{name}.json").write_bytes(record)
    ends = ["--table", str(folder / "t.md"), "--plot", str(folder / "p.png")]
    terminal = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with redirect_stdout(terminal), redirect_stderr(terminal):
        compare.main([str(folder / "a.json"), str(folder / "b.json"), *ends])


def _samples(content: bytes, folder: Path) -> None:
    (folder / "s.jsonl").write_bytes(content)
    samples = list(read_samples(folder / "s.jsonl").values())
    origin = {name: common(samples, name) for name in _ORIGIN}
    rows = {"samples": {"network_calls": network_calls(samples)}}
    record = origin | {"num": len(samples), "ngram": 4, "rows": rows}
    record |= {"scorer": dict.fromkeys(("scorer", "kind", "room", "first_token"))}
    record |= {"reference": {"split": "", "source": ""}}
    record |= {"training_text": {"source": "", "split": "", "characters": 0}}
    json.dumps(record, allow_nan=False)
    table(record).encode()


def _continued(content: bytes, folder: Path) -> None:
    """What is there stays, and a sample more is read back; or nothing is changed."""
    path = folder / "s.jsonl"
    path.write_bytes(content)
    try:
        with SamplesWriter(str(path), _ABOUT, force=False) as writer:
            writer.write(writer.start, "of the people", 16)
    except UserError:
        assert path.read_bytes() == content
        raise
    assert path.read_bytes().startswith(b"".join(content.splitlines(True)[: writer.start]))
    read = list(read_samples(path).values())
    assert [sample["number"] for sample in read] == list(range(writer.start + 1))


def _metrics(content: bytes, folder: Path) -> None:
    (folder / "metrics.jsonl").write_bytes(content)
    for name in ("train/loss", "perf/tokens_per_s"):
        sum(value for _, value in read_metric(folder, name))
    (folder / DAMAGED).unlink(missing_ok=True)
    lines: list[str] = []
    with Metrics(folder, 2, lines.append) as metrics:
        metrics.write(3, {"train/loss": 1.0})
    assert (folder / DAMAGED).exists() == any(DAMAGED in line for line in lines)


def _grid(content: bytes, folder: Path) -> None:
    (folder / FILE).write_bytes(content)
    with redirect_stderr(io.StringIO()):
        fitted_information(folder)


def _source(content: bytes, folder: Path) -> None:
    (folder / SOURCE).write_bytes(content)
    (published_line(folder) or "").encode()


def _tracked(content: bytes, folder: Path) -> None:
    (folder / RUN).write_bytes(content)
    with tracking(NoTracker(), folder, {}, lambda line: None) as follow:
        follow(1, {"train/loss": 1.0})


def _lines(values: list[dict]) -> st.SearchStrategy[bytes]:
    """The bytes of a JSON lines file, of which one line or the whole is damaged."""
    whole = [dumped(value) for value in values]
    one = st.builds(
        lambda line, at: b"\n".join([*whole[:at], line, *whole[at + 1 :]]) + b"\n",
        json_text(values[0]),
        st.integers(0, len(whole) - 1),
    )
    return st.one_of(one, one, one, damaged(b"\n".join(whole) + b"\n"))


def _kept() -> st.SearchStrategy[bytes]:
    """A file of samples, cut anywhere, or with a damaged line."""
    values = [_SAMPLE | {"number": number} for number in range(3)]
    whole = b"".join(dumped(value) + b"\n" for value in values)
    return st.one_of(st.integers(0, len(whole)).map(lambda end: whole[:end]), _lines(values))


def readers(folder: Path) -> list[Reader]:
    """The readers of this file, each with its cases; folder: where they may write."""
    (folder / "figure").mkdir()
    _comparison(dumped(RECORD), folder / "figure")  # matplotlib keeps what it finds out at first
    return [
        Reader("evaluation records", 700, json_text(RECORD), _record),
        Reader("compare, with its figure", 60, json_text(RECORD), _comparison),
        Reader("samples", 700, _lines([_SAMPLE, _SAMPLE | {"seed": 1}]), _samples),
        Reader("samples, continued", 400, _kept(), _continued),
        Reader("metrics", 440, _lines(_METRICS), _metrics),
        Reader("sampling grids", 400, json_text(_GRID), _grid),
        Reader("source.json", 150, json_text(_SOURCE), _source),
        Reader("tracker.json", 50, json_text({"tracker": "NoTracker", "run": "a"}), _tracked),
    ]
