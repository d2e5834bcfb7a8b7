"""Records beside each other: what is ranked, what is tied, what is published."""

import math
import os
import subprocess
import sys
import warnings

import pytest
from record_examples import LM1B, ROOT, TEXT8, UNKNOWN, cells, changed, edited, run, save
from test_compare import panels

from experiments import cli
from experiments.comparison.published import match, published
from experiments.comparison.record_groups import Entry, differences, group, name_records, places


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


def test_the_command_ranks_within_protocols_and_says_how_they_differ(tmp_path, capsys):
    records = {
        "worse": {"value": 1.5},
        "better": {"value": 1.4},
        "tied": {"value": 1.401, "ema": False},
        "short": {"context.length": 64, "value": 9.0},
        "part": {"context.length": 64, "value": 9.5, "sequences": 4883, "labels": "none"},
    }
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
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("table: table.md\nplot: plot.png\nFalse\n")
    assert len(cells((tmp_path / "table.md").read_text())[0]) == 2  # named twice is one record
    assert (tmp_path / "plot.png").is_file()
