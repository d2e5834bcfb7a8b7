"""The comparison as users run it: the table, the figure, what is not done twice, and every mistake."""

import json
import math
import random
import re
import shlex
import shutil
import statistics
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import cli
from experiments.comparison import methods
from experiments.comparison.methods import Result, table
from experiments.errors import Stopped
from experiments.evaluation import bound
from experiments.evaluation.breakdown import Nats
from experiments.evaluation.record_files import read_record
from experiments.figure import draw, short_names

ROOT = Path(__file__).parent.parent
ONES = np.ones((64, 2))  # sequences of a batch, times


def of(terms):
    """What a bound gives of a batch, all of it at one position."""
    return Nats(
        terms, {name: values.mean(1, keepdims=True) for name, values in terms.items()}, None
    )


SMOKE = str(ROOT / "configs" / "smoke.py")
OTHER = """
from dataclasses import dataclass, replace
from configs.smoke import get_config as base
from diffusion.mdlm import MDLM
from diffusion.schedules import MDLMCosine

@dataclass(frozen=True)
class Mine(MDLM):
    def loss(self, key, model, x0, u):
        return {factor} * super().loss(key, model, x0, u)

def get_config():
    return replace(base(), process=Mine(schedule=MDLMCosine(eps=1e-3)))
"""


def compare(workdir, configs, *arguments, steps=4):
    """The exit code of a comparison in this process."""
    words = [word for config in configs for word in ("--config", str(config))]
    sets = ["log_every=1", "eval_every=2", f"num_steps={steps}"]
    words += [word for item in sets for word in ("--set", f"train.{item}")]
    words += ["--set", "model.num_layers=1"]
    return cli.guarded("compare", ["--workdir", str(workdir), *words, *map(str, arguments)])


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def states(folder, *left_out):
    """When each file was last written."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in left_out]
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in files}


def record_of(workdir, name):
    return json.loads((workdir / name / "records" / "test-4.json").read_text())


def cells(text):
    """The rows of a Markdown table, the header first, without the line below it."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in (rows[0], *rows[2:])]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A comparison of three methods, of which one diverges, as it was left by its first call."""
    folder = tmp_path_factory.mktemp("compare")
    words = random.Random(0).choices(["the", "state", "of", "union", "and", "people"], k=4000)
    (folder / "text.txt").write_text(" ".join(words))
    configs = [folder / "broken.py", SMOKE, folder / "other.py"]
    configs[0].write_text(OTHER.format(factor="float('inf')"))
    configs[2].write_text(OTHER.format(factor="1.0"))
    sets = [f"data.path={folder / 'text.txt'}", "data.split_points=(9600,11200,12800)"]
    data = [word for item in sets for word in ("--set", item)]  # whole sequences in every split
    workdir = folder / "w"
    assert compare(workdir, configs, *data, "--num-times", 1) == 0
    return SimpleNamespace(workdir=workdir, configs=configs, data=data)


def test_table_holds_the_records_sorted_by_value(done):
    budget, _, text = (done.workdir / "table.md").read_text().partition("\n\n")
    assert (
        "model of 10,075 parameters, 4 steps of 16 x 32 tokens of text.txt; test split, 1 time sample a "
        in budget
    )
    assert budget.endswith("checkpoint 4") and "\n" not in budget
    header, *rows = cells(text)
    column = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    assert sorted(column["method"]) == ["broken (Mine)", "other (Mine)", "smoke (MDLM)"]
    assert rows[2][:4] == ["broken (Mine)", "-", "diverged", "-"]
    records = [record_of(done.workdir, row[0].split()[0]) for row in rows[:2]]
    assert column["bits per character"][:2] == [f"{r['value']:.4f}" for r in records]
    assert records[0]["value"] < records[1]["value"]
    assert column["standard error"][:2] == [f"{r['standard_error']:.4f}" for r in records]
    assert column["kind"][:2] == ["bound", "bound"]
    prior = dict(zip(column["method"], column["of which prior"], strict=True))
    assert prior["smoke (MDLM)"] == "-"
    assert prior["other (Mine)"] == f"{1e-3 * math.log2(27):.4f}"  # alpha(1) log V
    lines = (done.workdir / "smoke" / "metrics.jsonl").read_text().splitlines()
    speeds = [json.loads(x).get("perf/tokens_per_s") for x in lines]
    speed = dict(zip(column["method"], column["training tokens/s"], strict=True))
    assert speed["smoke (MDLM)"] == f"{statistics.median(filter(None, speeds)):,.0f}"


def test_records_are_those_of_the_evaluate_command(done, tmp_path):
    own = ["--config", str(done.configs[2]), "--set", "model.num_layers=1"]
    for name, config in {"smoke": [], "other": own}.items():
        out, where = tmp_path / f"{name}.json", str(done.workdir / name)
        arguments = ["--workdir", where, "--split", "test", "--num-times", "1", "--out", str(out)]
        assert cli.guarded("evaluate", [*arguments, *config]) == 0
        same, ours = json.loads(out.read_text()), record_of(done.workdir, name)
        for record in (same, ours):
            del record["seconds"], record["time"]
        assert same == ours


def test_records_compared_by_themselves_are_in_the_same_order(done, tmp_path):
    paths = [str(done.workdir / name / "records" / "test-4.json") for name in ("smoke", "other")]
    out = ["--table", str(tmp_path / "t.md"), "--plot", str(tmp_path / "p.png")]
    assert cli.guarded("compare", [*paths, *out]) == 0
    again = cells((tmp_path / "t.md").read_text())[1:]
    trained = cells((done.workdir / "table.md").read_text())[1:3]
    assert [row[1:4] for row in again] == [[row[0], *row[2:4]] for row in trained]


@pytest.mark.parametrize("nats, code", [(math.inf, 1), (math.nan, 1), (1e5, 0)])
def test_a_diverged_run_is_evaluated_to_one_line(done, tmp_path, nats, code, monkeypatch, capsys):
    """nats: of a token, at 32 tokens a sequence; no float holds exp(1e5)."""
    monkeypatch.setattr(bound, "check_estimate", lambda *_, **__: None)
    monkeypatch.setattr(
        bound,
        "make_bound",
        lambda *_: lambda *_: of({"prior": 0 * ONES, "diffusion": 32 * nats * ONES}),
    )
    out = tmp_path / "r.json"
    arguments = ["--workdir", str(done.workdir / "smoke"), "--split", "test", "--raw"]
    assert cli.guarded("evaluate", [*arguments, "--out", str(out)]) == code
    said = capsys.readouterr()
    if code:
        assert said.err.count("\n") == 1 and not out.exists()
        assert said.err.startswith(
            "error: the bound (diffusion) is not finite for 50 of 50 sequences"
        )
        assert "checkpoint 4" in said.err and "diverged" in said.err
    else:
        record = read_record(out)
        assert record["nats_per_token"] == nats and record["perplexity_per_token"] is None
        assert "perplexity beyond 1e308" in said.out


def test_a_method_whose_bound_is_not_finite_has_diverged_in_the_table(done, tmp_path, monkeypatch):
    shutil.copytree(done.workdir, tmp_path / "w")
    (tmp_path / "w" / "other" / "records" / "test-4.json").unlink()
    monkeypatch.setattr(bound, "check_estimate", lambda *_, **__: None)
    infinite = of({"diffusion": math.inf * ONES})
    monkeypatch.setattr(bound, "make_bound", lambda *_: lambda *_: infinite)
    assert compare(tmp_path / "w", done.configs[1:], *done.data, "--num-times", 1) == 0
    rows = cells((tmp_path / "w" / "table.md").read_text())[1:]
    assert [row[0:3:2] for row in rows] == [
        ["smoke (MDLM)", f"{record_of(done.workdir, 'smoke')['value']:.4f}"],
        ["other (Mine)", "diverged"],
    ]
    assert not (tmp_path / "w" / "other" / "records" / "test-4.json").exists()


def test_what_is_said_to_follow_training_reads_a_process_of_ones_own(done, tmp_path, capsys):
    named = "a run"  # which a shell would take apart
    sets = [*done.data, "--set", "model.num_layers=1", "--set", "train.num_steps=0"]
    sets += ["--set", "evaluation.max_sequences=9"]
    where = ["--workdir", str(tmp_path / named)]
    assert cli.guarded("train", ["--config", str(done.configs[2]), *where, *sets]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    ddlm, command, *arguments = shlex.split(said.partition("; now: ")[2])
    assert (ddlm, command, arguments[:4]) == (
        "ddlm",
        "evaluate",
        [*where, "--config", str(done.configs[2])],
    )
    assert cli.guarded(command, arguments) == 0
    monitored = [*where[:1], str(tmp_path / "plain"), *sets]
    assert cli.guarded("train", ["--config", SMOKE, *monitored]) == 0
    assert capsys.readouterr().out.endswith(f"ddlm evaluate --workdir {tmp_path / 'plain'}\n")


def test_figure_is_a_png(done):
    assert (done.workdir / "plot.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_second_call_trains_and_evaluates_nothing_again(done, tmp_path):
    shutil.copytree(done.workdir, tmp_path / "w")
    configs, first = done.configs[1:], states(tmp_path / "w", "config.json", "table.md", "plot.png")
    elsewhere = ["--table", tmp_path / "new" / "t.md", "--plot", tmp_path / "new" / "p.svg"]
    arguments = [*done.data, "--num-times", 1, *elsewhere]
    assert compare(tmp_path / "w", configs, *arguments) == 0
    assert states(tmp_path / "w", "config.json", "table.md", "plot.png") == first
    rows = cells((done.workdir / "table.md").read_text())
    assert cells((tmp_path / "new" / "t.md").read_text()) == rows[:3]
    assert "<svg" in (tmp_path / "new" / "p.svg").read_text()


@pytest.mark.parametrize(
    "change", [{"num_times": 2}, {"checkpoint_fingerprint": "0"}, {"split_sha256": "0"}, None]
)
def test_a_record_of_something_else_is_made_anew(done, tmp_path, change, monkeypatch):
    shutil.copytree(done.workdir, tmp_path / "w")
    path = tmp_path / "w" / "smoke" / "records" / "test-4.json"
    right = json.loads(path.read_text())
    path.write_text(json.dumps(right | change) if change else "{")
    monkeypatch.setattr(methods, "evaluate_run", lambda *a, **k: right | {"new": True})
    assert compare(tmp_path / "w", done.configs[1:], *done.data, "--num-times", 1) == 0
    assert json.loads(path.read_text()) == right | {"new": True}
    assert "new" not in record_of(tmp_path / "w", "other")


@pytest.mark.parametrize("error, code", [(Stopped("stopped", 15), 143), (KeyboardInterrupt(), 130)])
def test_an_interruption_ends_the_comparison(done, tmp_path, error, code, monkeypatch):
    def interrupted(*arguments, **more):
        raise error

    monkeypatch.setattr(methods, "train", interrupted)
    assert compare(tmp_path / "w", done.configs, *done.data) == code
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "configs, arguments, words",
    [
        ([SMOKE], [], "at least two configs"),
        ([SMOKE, SMOKE], [], "both be named smoke"),
        ([SMOKE, "{other}", "{longer}"], [], "smoke and longer differ"),
        ([SMOKE, "{longer}"], [], "(data.length: 32 -> 16; evaluation.num_times: 2 -> 3)"),
        ([SMOKE, "{longer}"], ["--set", "data.length=16"], "--set evaluation.num_times=VALUE"),
        ([SMOKE, "configs/sotu/mdlm.py"], [], "smoke and sotu-mdlm differ"),
        ([SMOKE, "configs/sotu/mdlm.py"], [], " more); make them equal with --set"),
        ([SMOKE, "{other}"], ["--split", "tset"], "split 'tset'"),
        ([SMOKE, "{other}"], ["--set", "data.length=9999999"], "fewer than one sequence"),
        ([SMOKE, "{other}"], ["--set", "process.schedul=Cosine"], "smoke: --set process.schedul"),
        ([SMOKE, "{other}"], ["--plot", "p.txt"], "must end in one of"),
        ([SMOKE, "nowhere.py"], [], "does not exist"),
        ([], [], "--config"),
    ],
)
def test_mistakes_end_with_one_line_and_code_2(configs, arguments, words, done, tmp_path, capsys):
    longer = tmp_path / "longer.py"
    longer.write_text(
        "from experiments.overrides import load, override\n"
        "def get_config():\n"
        f"    return override(load({SMOKE!r}), ['data.length=16', 'evaluation.num_times=3'])\n"
    )
    configs = [c.format(other=done.configs[2], longer=longer) for c in configs]
    assert compare(tmp_path / "w", configs, *done.data, *arguments) == 2
    assert words in one_line(capsys)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "arguments, steps, words",
    [
        ([], 3, "is at step 4 already"),
        (["--set", "optimizer.schedule.peak_lr=0.1"], 4, "another config"),
    ],
)
def test_a_workdir_that_does_not_fit_is_left_alone(
    done, tmp_path, arguments, steps, words, monkeypatch, capsys
):
    (tmp_path / "new.py").write_text(OTHER.format(factor="1.0"))
    configs = [tmp_path / "new.py", done.configs[1]]  # what is wrong is found at the second
    before = states(done.workdir)
    monkeypatch.setattr(methods, "train", lambda *a: pytest.fail("trained"))
    assert compare(done.workdir, configs, *done.data, *arguments, steps=steps) == 2
    assert words in one_line(capsys)
    assert states(done.workdir) == before


def test_without_matplotlib_the_extra_is_named(done, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert compare(tmp_path / "w", done.configs, *done.data) == 2
    assert 'pip install -e ".[plot]"' in one_line(capsys)
    assert not (tmp_path / "w").exists()


def test_figure_and_table_of_fourteen_methods_name_each_of_them():
    def result(n):
        value = 2 + n / 10
        record = {"value": value, "standard_error": None if n == 11 else 0.01, "kind": "bound"}
        record |= {"terms_nats_per_token": {}, "tokens": 1, "characters": 1}
        curve = [(s, value + 50 / s) for s in range(1, 9)] if n != 10 else []
        return Result(f"method{n:02d}", "P", (record if n < 13 else None,), (curve,), None)

    results = [result(n) for n in range(14)]
    image = draw(results, "title", ".svg").decode()
    assert all(image.count(f"<!-- {r.name} -->") == 2 for r in results)  # legend and row
    assert image.count("<!-- diverged -->") == 1 and image.count("<!-- 3.100 bound -->") == 1
    rows = cells(table(results))[1:]
    assert [row[0] for row in rows] == [f"{r.name} (P)" for r in results]
    assert rows[11][2:4] == ["3.1000", "unknown"] and results[13].value == math.inf


def panels(svg):
    """(left, right) of each panel, in parts of the width of the figure."""
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    found = []
    for part in re.split(r'<g id="axes_\d+">', svg)[1:]:
        outline = re.search(r'd="M ([\d.]+) [\d.]+\s+L ([\d.]+)', part)
        found.append(tuple(float(x) / width for x in outline.groups()))
    return found


def ended(name, value=2.0, curve=()):
    record = {"value": value, "standard_error": 0.01, "kind": "bound"}
    return Result(name, "P", (record,), (list(curve),), None)


def test_a_figure_without_evaluations_while_training_has_no_panel_for_them():
    curve = [(2, 3.0), (4, 2.5)]
    results = [ended("a", curve=curve), ended("b")]
    assert len(panels(draw(results, "title", ".svg").decode())) == 2
    for bare in ([(2, math.nan)], []):
        image = draw([ended("a", curve=bare), ended("b")], "title", ".svg").decode()
        assert len(panels(image)) == 1 and "legend_1" not in image
        assert image.count("<!-- a -->") == image.count("<!-- b -->") == 1


LONG = "runs-of-november-{}-text8-mdlm-12layers-width768-lr3e-4-warmup2500-batch512-ema0.9999-x{}"


@pytest.mark.parametrize("number", [1, 3, 12])
@pytest.mark.parametrize("curve", [[], [(1, 4.0), (2, 3.0)]])
@pytest.mark.parametrize("name", [LONG, LONG.replace("-", "_"), "$x_{{$ {}" + "y" * 400 + "{}"])
def test_long_names_leave_room_for_the_axes(number, curve, name):
    names = [name.format(chr(97 + n), n) for n in range(number)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [ended(name, curve=curve) for name in names]
        image = draw(results, "a title of $x_{$ " + "words " * 60, ".svg").decode()
    found = panels(image)
    assert len(found) == 1 + bool(curve)
    for left, right in found:
        assert 0 < left < right < 1 and right - left > 0.6 / (len(found) + 0.5)


def test_short_names_differ_where_the_names_do():
    assert short_names(["runs/a/x"]) == ["runs/a/x"]
    assert short_names(["mdlm", "mdlm-long"]) == ["mdlm", "mdlm-long"]
    assert short_names([f"/home/someone/runs/{n}" for n in "ab"]) == ["…a", "…b"]
    for names in ([LONG.format(n, n) for n in range(9)], ["a" * 500 + str(n) for n in range(9)]):
        short = short_names(names)
        assert len(set(short)) == 9
        assert all(len(line) <= 36 for name in short for line in name.split("\n"))
        assert all(name.count("\n") < 3 for name in short)
