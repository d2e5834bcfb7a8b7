"""Records as users name them: what a file must hold, and what is read and written."""

import json
import math

import pytest
from record_examples import (
    LM1B,
    SCHEMA,
    TEXT8,
    UNKNOWN,
    cells,
    changed,
    edited,
    mistake,
    run,
    save,
    without,
)

from experiments import cli
from experiments.evaluation.record_files import read_record, stored_record, write_record

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
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[1]", "must be of type object"),
        ("[" * 9999, "JSON"),
    ],
)
def test_a_file_that_is_no_record_is_one_line(content, words, tmp_path):
    assert words in mistake(save(tmp_path / "r.json", content))


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    assert "No such file" in mistake(tmp_path / "none.json")
    assert "Is a directory" in mistake(tmp_path)
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\xff")
    assert "is not JSON" in mistake(tmp_path / "r.json")
    assert stored_record(tmp_path / "none.json") == {}


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
        (
            {"nats_per_token_at_times": {"prior": [0.1] * 10}},
            "nats_per_token_at_times.prior is 1, but others give 0.242602",
        ),
        (
            {"nats_per_token_at_positions": {"none": [0.1]}},
            "nats_per_token_at_positions.none is 0.1, but others give unknown",
        ),
        ({"perplexity_per_token": None}, "perplexity_per_token is unknown, but others give 2.639"),
        ({"confidence_interval_95": [1.38, 2.0]}, "confidence_interval_95 is 2, but"),
        ({"kind": "exact"}, "kind is exact, but the estimator is mean over 2"),
        ({"estimator": "exact, one pass"}, "kind is bound, but the estimator is exact"),
        (
            {"estimator": "Gauss-Legendre quadrature at 2 times"},
            "kind is bound, but Gauss-Legendre",
        ),
        ({"sequences": 19533}, "sequences is 19533, but there are 19532 in the split"),
        ({"unit": "nats"}, "unit is 'nats' and must be bits per character"),
        ({"nats_per_token_standard_error": None}, "is null, but there are 19532 sequences"),
    ],
)
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
        "good": TEXT8,
        "first": edited({"value": 0.1}),
        "nan": edited({"value": math.nan}),
        "none": "{}",
        "worse": changed({"value": 1.5}),
        "copy": TEXT8,
    }
    paths = {n: save(tmp_path / n / "records" / "r.json", r) for n, r in records.items()}
    text = run(tmp_path, list(paths.values()))
    ranked = cells(text)[0][1:]
    assert [row[:2] for row in ranked] == [["1", "good (MDLM)"], ["2", "worse (MDLM)"]]
    left_out = text[text.index("## Left out") :].strip().splitlines()[2:]
    assert [line.split(":")[0] for line in left_out] == [
        *["- not comparable"] * 3,
        "- the same record as good",
    ]
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
