"""Records as users name them: what a file must hold, what is ranked, what is tied, what is published."""

import copy
import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from test_compare import panels

from experiments import cli
from experiments.comparison.published import match, published
from experiments.comparison.record_groups import Entry, differences, group, name_records, places
from experiments.errors import UserError
from experiments.evaluation.record_files import read_record, stored_record, write_record

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "experiments/evaluation/record_schema.json").read_text())
# A record of the published text8 protocol, as `evaluate` wrote them before the optional fields.
TEXT8 = {
    "process": "MDLM", "process_settings": {"vocab_size": 27}, "kind": "bound", "value": 1.4,
    "unit": "bits per character", "standard_error": 0.01, "standard_error_over_times": 0.005,
    "nats_per_token": 0.0, "nats_per_token_standard_error": 0.0, "perplexity_per_token": 0.0,
    "perplexity_per_token_standard_error": 0.0, "terms_nats_per_token": {"diffusion": 0.0},
    "estimator": "mean over 2 stratified times per sequence", "num_times": 2, "seed": 0,
    "sequences": 19532, "tokens": 5_000_000, "characters": 5_000_000,
    "context": {"length": 256, "chunks": "fixed", "packed": True, "bos_or_eos_counted": False},
    "tokenizer": "Letters27", "tokenizer_sha256": "a" * 64, "source": "text8", "split": "test",
    "split_points": [90_000_000, 95_000_000, 100_000_000], "split_sha256": "b" * 64, "ema": True,
    "precision": "float32", "checkpoint_step": 1000, "checkpoint_fingerprint": "c" * 16,
    "device": "1 x cpu", "seconds": 1.0, "version": "0.1.0", "time": "2026-01-01T00:00:00Z",
    "sequences_in_split": 19532,
}  # fmt: skip
LM1B = {
    "dataset": "lm1b", "source": "lm1b", "tokenizer": "Subwords", "split_points": None,
    "words": 4_000_000, "characters": 17_000_000,
    "process_settings": {"base": {"vocab_size": 30522}},
    "context.length": 128, "context.protocol": "lm1b-sentence128", "context.length_given": True,
    "context.added_tokens": ["[CLS]", "[SEP]"],
}  # fmt: skip


def agreeing(record):
    """The record with all numbers that follow from its value, standard error and counts."""
    bits = record["tokens"] / math.log(2) / record["characters"]
    nats, error = record["value"] / bits, record["standard_error"] / bits
    found = {"nats_per_token": nats, "nats_per_token_standard_error": error}
    found |= {"terms_nats_per_token": {"prior": nats / 4, "diffusion": nats * 3 / 4}}
    units = {"token": 1.0}
    if record.get("words"):
        units["word"] = record["tokens"] / record["words"]
        found["nats_per_word"] = nats * units["word"]
    for unit, share in units.items():
        known = nats * share < 700
        perplexity = math.exp(nats * share) if known else None
        found[f"perplexity_per_{unit}"] = perplexity
        found[f"perplexity_per_{unit}_standard_error"] = (
            perplexity * error * share if known else None
        )
    return record | found


TEXT8 = agreeing(TEXT8)


def changed(changes, record=TEXT8):
    """The record with fields, dotted within others, set to other values, and what follows from them."""
    record = edited(changes, record)
    measured = {"value", "standard_error", "tokens", "characters", "words"} & changes.keys()
    return agreeing(record) if measured else record


def edited(changes, record=TEXT8):
    """The record with fields, dotted within others, set to other values."""
    record = copy.deepcopy(record)
    for name, value in changes.items():
        *path, last = name.split(".")
        inner = record
        for part in path:
            inner = inner[part]
        inner[last] = value
    return record


def without(name):
    record = copy.deepcopy(TEXT8)
    *path, last = name.split(".")
    del (record[path[0]] if path else record)[last]
    return record


def save(path, record):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    return str(path)


def mistake(path):
    with pytest.raises(UserError) as error:
        read_record(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def cells(text):
    """The rows of each Markdown table in a text, the header first, without the line below it."""
    tables = []
    for block in text.split("\n\n"):
        if block.startswith("|"):
            rows = [[c.strip() for c in row.strip("|").split("|")] for row in block.splitlines()]
            tables.append([rows[0], *rows[2:]])
    return tables


REQUIRED = [*SCHEMA["required"], *(f"context.{n}" for n in TEXT8["context"])]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_record_without_a_field_is_rejected_by_the_name_of_the_field(name, tmp_path):
    path = save(tmp_path / "r.json", without(name))
    assert f"the field {name} is missing" in mistake(path)
    assert stored_record(path) == {}


@pytest.mark.parametrize(
    "name, value, must",
    [
        ("value", "1.4", "type number"), ("value", None, "type number"), ("unit", 1, "type string"),
        ("kind", "guess", "exact or bound or estimate"), ("standard_error", -0.1, "at least 0"),
        ("tokens", 2.5, "type integer"), ("tokens", 0, "at least 1"), ("ema", "yes", "type boolean"),
        ("split_points", "90", "type array or null"), ("context", [], "type object"),
        ("terms_nats_per_token.diffusion", [], "type number"), ("labels", "some", "given or none"),
        ("context.length", "256", "type integer"), ("context.length_given", 1, "type boolean"),
        ("context.added_tokens", "[CLS]", "type array"), ("context.protocol", 1, "type string"),
        ("checkpoint_step", True, "type integer"), ("words", "many", "type integer"),
        ("perplexity_per_word", [2.0], "type number"), ("dataset", 8, "type string"),
    ],
)  # fmt: skip
def test_a_field_of_the_wrong_type_is_named_with_what_it_must_be(name, value, must, tmp_path):
    said = mistake(save(tmp_path / "r.json", edited({name: value})))
    assert f"the field {name} is {json.dumps(value)} and must be" in said and must in said


@pytest.mark.parametrize(
    "content, words",
    [("{", "is not JSON"), ("", "is not JSON"), ("[1]", "must be of type object"), ("[" * 9999, "JSON")],
)  # fmt: skip
def test_a_file_that_is_no_record_is_one_line(content, words, tmp_path):
    assert words in mistake(save(tmp_path / "r.json", content))


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    assert "No such file" in mistake(tmp_path / "none.json")
    assert "Is a directory" in mistake(tmp_path)
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\xff")
    assert "is not JSON" in mistake(tmp_path / "r.json")
    assert stored_record(tmp_path / "none.json") == {}


UNKNOWN = {"sequences": 1} | {
    f"{name}standard_error": None for name in ("", "nats_per_token_", "perplexity_per_token_")
}


@pytest.mark.parametrize(
    "more",
    [{}, LM1B, {"of_a_later_version": [1]}, UNKNOWN, {"value": 2000.0},
     {"confidence_interval_95": [1.3804, 1.4196]}],
)  # fmt: skip
def test_what_is_written_is_read_back_unchanged(more, tmp_path):
    record = edited(more) if more is UNKNOWN else changed(more)
    assert f"record: {tmp_path / 'r.json'}" in write_record(tmp_path / "r.json", record)
    assert repr(read_record(tmp_path / "r.json")) == repr(record)


def numbers(record, path=()):
    """(path, number) of every number in the record."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from numbers(value, (*path, name))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield ".".join((*path, name)), value


WORDS = changed(LM1B)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize("name", [name for name, _ in numbers(WORDS)])
def test_a_number_that_is_not_finite_is_named(name, number, tmp_path):
    content = json.dumps(edited({name: "HERE"}, WORDS)).replace('"HERE"', number)
    path = save(tmp_path / "r.json", content)
    assert f"{name} is {number.replace('1e400', 'Infinity')}, no finite number" in mistake(path)
    assert stored_record(path) == {}


DERIVED = [name for name, value in numbers(WORDS) if "per_" in name or name in ("value", "words")]
DERIVED += ["standard_error", "tokens", "characters"]


@pytest.mark.parametrize("factor", [0.9, 1.1, -1])
@pytest.mark.parametrize("name", [n for n in DERIVED if n != "standard_error_over_times"])
def test_a_number_that_the_others_contradict_is_not_believed(name, factor, tmp_path):
    value = dict(numbers(WORDS))[name] * factor
    value = round(value) if name in ("tokens", "characters", "words") else value
    said = mistake(save(tmp_path / "r.json", edited({name: value}, WORDS)))
    assert "but others give" in said or "must be at least" in said


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"value": 0.1}, "the field value is 0.1, but others give 1.4"),
        ({"nats_per_token": 1e308}, "the field nats_per_token is 1e+308, but others give 0.970406"),
        ({"terms_nats_per_token": {}}, "the field nats_per_token is 0.970406, but others give 0"),
        ({"perplexity_per_token": None}, "perplexity_per_token is unknown, but others give 2.639"),
        ({"confidence_interval_95": [1.38, 2.0]}, "confidence_interval_95 is 2, but"),
        ({"kind": "exact"}, "kind is exact, but the estimator is mean over 2"),
        ({"estimator": "exact, one pass"}, "kind is bound, but the estimator is exact"),
        ({"estimator": "Gauss-Legendre quadrature at 2 times"}, "kind is bound, but Gauss-Legendre"),
        ({"sequences": 19533}, "sequences is 19533, but there are 19532 in the split"),
        ({"unit": "nats"}, "unit is 'nats' and must be bits per character"),
        ({"nats_per_token_standard_error": None}, "is null, but there are 19532 sequences"),
    ],
)  # fmt: skip
def test_fields_that_do_not_go_together_are_named(changes, words, tmp_path):
    assert words in mistake(save(tmp_path / "r.json", edited(changes)))
    with pytest.raises(ValueError, match="not an evaluation record"):
        write_record(tmp_path / "w.json", edited(changes))
    assert not (tmp_path / "w.json").exists()


def test_rounded_numbers_agree(tmp_path):
    for name, value in numbers(WORDS):
        if isinstance(value, float):
            digits = 1 if "error" in name else 3
            rounded = edited({name: float(f"{value:.{digits}e}")}, WORDS)
            assert read_record(save(tmp_path / "r.json", rounded)) == rounded


def test_a_perplexity_that_no_float_holds_is_left_out_and_compares_by_its_bits(tmp_path, capsys):
    beyond = changed({"value": 2000.0})
    assert beyond["perplexity_per_token"] is None
    assert "(1386.2944 nats per token, perplexity beyond 1e308)" in write_record(
        tmp_path / "a.json", beyond
    )
    text = run(tmp_path, [str(tmp_path / "a.json"), save(tmp_path / "b.json", TEXT8)])
    assert [row[:3] for row in cells(text)[0][1:]] == [
        ["1", "b (MDLM)", "1.4000"],
        ["2", "a (MDLM)", "2000.0000"],
    ]


def test_records_that_do_not_count_are_listed_and_hide_none(tmp_path, capsys):
    records = {
        "good": TEXT8, "first": edited({"value": 0.1}), "nan": edited({"value": math.nan}),
        "none": "{}", "worse": changed({"value": 1.5}), "copy": TEXT8,
    }  # fmt: skip
    paths = {n: save(tmp_path / n / "records" / "r.json", r) for n, r in records.items()}
    text = run(tmp_path, list(paths.values()))
    ranked = cells(text)[0][1:]
    assert [row[:2] for row in ranked] == [["1", "good (MDLM)"], ["2", "worse (MDLM)"]]
    left_out = text[text.index("## Left out") :].strip().splitlines()[2:]
    assert [line.split(":")[0] for line in left_out] == [
        *["- not comparable"] * 3, "- the same record as good",
    ]  # fmt: skip
    for line, name, said in zip(
        left_out,
        ("first", "nan", "none", "copy"),
        ("the field value is 0.1", "value is NaN", "is missing", ""),
        strict=True,
    ):
        assert paths[name] in line and said in line
    capsys.readouterr()
    bad = [paths["nan"], paths["first"]]
    assert cli.guarded("compare", [*bad, "--table", str(tmp_path / "t.md")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {paths['nan']}: ") and error.count("\n") == 1
    assert not (tmp_path / "t.md").exists()


def test_what_is_no_record_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="the field split_sha256 is missing"):
        write_record(tmp_path / "r.json", without("split_sha256"))
    assert list(tmp_path.iterdir()) == []


def test_places_are_ties_below_two_joint_standard_errors():
    assert places([(1.0, 0.3), (2.0, 0.4)]) == [(1, 1), (2, 2)]  # 2 joint errors: exactly 1
    assert places([(1.0, 0.3), (1.999, 0.4)]) == [(1, 2), (1, 2)]
    # Neighbours are ties and the ends are not: no order of three can say that, a range of places can.
    assert places([(0.0, 1.0), (2.0, 1.0), (4.0, 1.0)]) == [(1, 2), (1, 3), (2, 3)]
    assert places([(1.0, 0.0), (1.0, 0.0), (1.1, 0.0)]) == [(1, 2), (1, 2), (3, 3)]
    assert places([(1.0, math.nan), (9.0, 0.1), (math.nan, 0.1)]) == [(1, 3)] * 3


OF_A_PROTOCOL = {
    "unit": "nats", "tokenizer": "Bytes", "tokenizer_sha256": "0", "split_sha256": "0",
    "labels": "given", "context.length": 128, "context.packed": False, "context.chunks": "sliding",
    "context.protocol": "sentence", "context.length_given": True, "context.added_tokens": ["[CLS]"],
    "context.of_a_later_version": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", OF_A_PROTOCOL)
def test_numbers_of_different_protocols_are_in_different_groups(name):
    other = changed({name: OF_A_PROTOCOL[name]})
    groups = group([Entry("a", TEXT8), Entry("b", other), Entry("c", TEXT8)])
    assert [[e.name for e in g.entries] for g in groups] == [["a", "c"], ["b"]]
    (field,) = differences(groups)
    assert field == name and differences(groups)[name][1] == OF_A_PROTOCOL[name]


def test_what_belongs_to_the_model_does_not_separate_and_old_records_compare_with_new_ones():
    own = {
        "process": "UDLM",
        "value": 1.2,
        "ema": False,
        "checkpoint_step": 3,
        "estimator": "other",
    }
    new = {"context.protocol": "wrap", "context.length_given": False, "context.added_tokens": []}
    files = {"source": "elsewhere.xz", "dataset": "text8", "labels": "none", "kind": "exact"}
    (members,) = group([Entry("a", TEXT8), Entry("b", changed(own | new | files))])
    assert [e.name for e in members.entries] == ["b", "a"]
    assert members.places == [(1, 1), (2, 2)]


def test_an_unknown_error_orders_nothing_and_is_shown_as_such(tmp_path):
    one = edited(UNKNOWN, changed({"value": 9.0}))
    text = run(tmp_path, [save(tmp_path / "a.json", TEXT8), save(tmp_path / "b.json", one)])
    assert [row[:4] for row in cells(text)[0][1:]] == [
        ["1-2", "a (MDLM)", "1.4000", "0.0100"],
        ["1-2", "b (MDLM)", "9.0000", "-"],
    ]


def test_names_are_those_of_run_directories_unless_two_would_be_one():
    paths = ["x/one/records/test-1.json", "x/two/records/test-1.json", "three.json"]
    assert name_records(paths) == ["one", "two", "three"]
    assert name_records([*paths, "y/one/records/test-1.json"])[0] == paths[0]


def run(tmp_path, paths, plot="p.png"):
    """The table that the command writes."""
    out = ["--table", str(tmp_path / "o" / "t.md"), "--plot", str(tmp_path / "o" / plot)]
    assert cli.guarded("compare", [*paths, *out]) == 0
    return (tmp_path / "o" / "t.md").read_text()


def test_the_command_ranks_within_protocols_and_says_how_they_differ(tmp_path, capsys):
    records = {
        "worse": {"value": 1.5}, "better": {"value": 1.4}, "tied": {"value": 1.401, "ema": False},
        "short": {"context.length": 64, "value": 9.0},
        "part": {"context.length": 64, "value": 9.5, "sequences": 4883, "labels": "none"},
    }  # fmt: skip
    paths = [save(tmp_path / n / "records" / "r.json", changed(c)) for n, c in records.items()]
    text = run(tmp_path, paths)
    assert text in capsys.readouterr().out
    long, _, short, differ = cells(text)
    assert [row[:3] for row in long[1:]] == [
        ["1-2", "better (MDLM)", "1.4000"],
        ["1-2", "tied (MDLM)", "1.4010"],
        ["3", "worse (MDLM)", "1.5000"],
    ]
    assert [row[-1] for row in long[1:]] == [f"1,000 {x}, cccccccc" for x in ("EMA", "raw", "EMA")]
    assert [row[:3] for row in short[1:]] == [
        ["1", "short (MDLM)", "9.0000"],
        ["2", "part (MDLM)", "9.5000"],
    ]
    assert short[2][-2] == "5,000,000 (25.0% of the split)"
    assert differ == [["differs", "1.", "2."], ["context.length", "256", "64"]]
    assert "length 256, wrap" in text and "length 64, wrap" in text
    assert (tmp_path / "o" / "p.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_table_says_where_kinds_differ_and_labels_are_given(tmp_path):
    bound = changed({"labels": "given"})
    exact = bound | {"kind": "exact", "estimator": "exact, one pass"}
    same = run(tmp_path, [save(tmp_path / "a.json", bound)])
    assert "wrap, given the labels" in same and "The kinds differ" not in same
    both = run(tmp_path, [save(tmp_path / "a.json", bound), save(tmp_path / "b.json", exact)])
    assert "The kinds differ" in both


def test_names_that_mean_something_to_markdown_or_to_the_plot_are_only_names(tmp_path):
    odd = changed({"source": "a$b_{$\nc", "split_sha256": "0", "estimator": "one | two"})
    text = run(tmp_path, [save(tmp_path / "$x_{$.json", odd), save(tmp_path / "b.json", TEXT8)])
    assert "test split of a$b_{$ c, Letters27" in text
    assert r"| one \| two " in text and "$x_{$ (MDLM)" in text


def test_options_may_stand_between_records(tmp_path):
    paths = [save(tmp_path / f"{n}.json", TEXT8 | {"process": n}) for n in "ab"]
    out = ["--table", str(tmp_path / "t.md"), "--plot", str(tmp_path / "p.png")]
    assert cli.guarded("compare", [paths[0], *out, paths[1]]) == 0
    assert len(cells((tmp_path / "t.md").read_text())[0]) == 3


def test_figure_has_a_panel_a_protocol_with_its_published_values(tmp_path):
    paths = [save(tmp_path / "a.json", TEXT8), save(tmp_path / "b.json", changed(LM1B))]
    paths += [save(tmp_path / "c.json", changed({"context.length": 64}))]
    run(tmp_path, paths, "p.svg")
    image = (tmp_path / "o" / "p.svg").read_text()
    assert image.count("<!-- published: MD4 (bound) -->") == 1
    assert all(f"<!-- {name} (bound) -->" in image for name in "abc")
    assert all(f"axes_{n}" in image for n in (1, 2, 3)) and "axes_4" not in image
    assert "perplexity per token, records" in image


@pytest.mark.parametrize("count", [1, 3, 12])
def test_long_names_of_records_leave_half_of_the_width_to_the_axes(count, tmp_path):
    long = "runs-of-november/{}-text8-mdlm-12layers-width768-lr3e-4-warmup2500-batch512-ema0.9999"
    paths = [
        save(
            tmp_path / long.format(n) / "records" / f"r{k}.json",
            changed({"value": 1.4 + n + k / 9}),
        )
        for n in range(count)
        for k in range(2)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path, paths, "p.svg")
    ((left, right),) = panels((tmp_path / "o" / "p.svg").read_text())
    assert right < 1 and right - left > 0.5


def test_published_values_stand_beside_records_of_their_protocol(tmp_path):
    text = run(tmp_path, [save(tmp_path / "a.json", TEXT8)])
    _, beside = cells(text)
    assert beside[0][:2] == ["published", "bits per character"]
    assert ["MD4", "1.37", "-", "bound", "MD4 T2", "-"] in beside
    assert ["D3PM uniform, 1000 steps", "1.61", "0.02", "bound", "D3PM T1, T5", "-"] in beside
    values = [float(row[1]) for row in beside[1:]]
    assert values == sorted(values)
    assert "EDLM" not in [row[0] for row in beside]
    assert "Left out, of another quantity: EDLM 1.24" in text and "MD4 2406.04329" in text


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"source": "text8_first74M.xz", "split_points": [64, 69, 74]},
            "split_points is [64, 69, 74] (published: [90000000, 95000000, 100000000])",
        ),
        ({"context.length": 128}, "context.length is 128 (published: 256)"),
        ({"context.protocol": "sentence"}, "context.protocol is sentence (published: wrap)"),
        ({"context.added_tokens": ["[SEP]"]}, 'context.added_tokens is ["[SEP]"] (published: [])'),
        ({"tokens": 512}, "tokens is 512 (published: 5,000,000)"),
        ({"characters": 6_000_000}, "characters is 6,000,000 (published: 5,000,000)"),
        ({"split": "validation"}, "split is validation (published: test)"),
        ({"labels": "given"}, "labels is given (published: none)"),
        ({"tokenizer": "Bytes"}, "tokenizer is Bytes (published: Letters27)"),
        ({"unit": "nats"}, "there is no bits per character"),
        ({"source": "mytext8.txt"}, "No published values are kept for mytext8.txt."),
    ],
)
def test_published_values_of_another_protocol_are_not_shown_and_the_reason_is(changes, words):
    found = match([Entry("a", edited(changes))])
    assert found.protocol is None and found.values == []
    (why,) = found.why
    assert words in why and why.count("(published") <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"split_points": None},
        {"dataset": "text8", "source": "all.zip"},
        {"context.protocol": "text8-90-5-5", "context.added_tokens": []},
    ],
)
def test_the_published_text8_is_known_by_what_a_record_says(changes):
    assert match([Entry("a", changed(changes))]).protocol == "text8"


def test_a_part_of_the_published_split_is_named_where_another_record_is_of_it_all():
    part = changed({"tokens": 512, "characters": 512})
    found = match([Entry("part", part), Entry("all", TEXT8)])
    assert found.protocol == "text8"
    (why,) = found.why
    assert why.startswith("part is not of the published protocol: tokens is 512")


def test_protocols_of_lm1b_are_told_apart():
    packed = {"context.protocol": "lm1b-wrap128"}
    words = {"context.protocol": "pack", "context.added_tokens": []}
    words |= {"process_settings": {"vocab_size": 8192}}
    found = {}
    for changes in ({}, packed, words):
        one = match([Entry("a", changed(changes, changed(LM1B)))])
        found[one.protocol] = (one.unit, {v["method"]: v["value"] for v in one.values})
    assert list(found) == ["lm1b-sentence128", "lm1b-packed128", "lm1b-words-packed"]
    (b, sentence), (c, packed), (a, words) = found.values()
    assert [a, b, c] == ["perplexity per word", *["perplexity per token"] * 2]
    assert sentence["MDLM (33B)"] == 27.04 and packed["MDLM"] == 31.78
    assert words["D3PM absorbing, 1000 steps"] == 76.9
    for changes in (
        {"context.protocol": "sentence"},
        {"dataset": "other"},
        {"sequences_in_split": 20000},
    ):
        assert match([Entry("a", changed(changes, changed(LM1B)))]).protocol is None


def test_a_table_shows_the_unit_of_what_is_published_too(tmp_path):
    own, beside = cells(run(tmp_path, [save(tmp_path / "a.json", changed(LM1B))]))
    units = ["bits per character", "standard error", "perplexity per token", "standard error"]
    assert own[0][2:6] == units and own[1][2:6] == ["1.4000", "0.0100", "27.0958", "0.6386"]
    assert beside[0][1] == "perplexity per token"


def test_published_values_are_whole_and_each_is_there_once():
    protocols = published()["protocols"]
    for value in published()["values"]:
        assert value["kind"] in ("bound", "exact", None) and value["value"] > 1
        assert value["source"] and value["method"] and value["dataset"] and value["unit"]
        assert value.get("comparable", True) or value["note"]
    where = [(v["protocol"], v["dataset"], v["method"], v["source"]) for v in published()["values"]]
    assert len(set(where)) == len(where)
    assert {v["protocol"] for v in published()["values"]} == set(protocols)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["r.json", "--config", "configs/smoke.py"], "--config is for training"),
        (["r.json", "--workdir", "w"], "--workdir is for training"),
        (["--set", "data.length=3", "r.json"], "--set is for training"),
        (["r.json", "--split", "test"], "--split is for training"),
        (["r.json", "--num-times", "2"], "--num-times is for training"),
        (["r.json", "none.json"], "none.json: cannot be read"),
        (["r.json", "--plot", "p.txt"], "must end in one of"),
        ([], "or RECORD files alone"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "r.json", TEXT8)
    assert cli.guarded("compare", arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_table_and_plot_lie_here_unless_said_and_jax_is_not_loaded(tmp_path):
    save(tmp_path / "r.json", TEXT8)
    code = (
        "import sys; from experiments import compare; compare.main(sys.argv[1:]); "
        "print('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "r.json", "r.json"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.endswith("table: table.md\nplot: plot.png\nFalse\n")
    assert len(cells((tmp_path / "table.md").read_text())[0]) == 2  # named twice is one record
    assert (tmp_path / "plot.png").is_file()
