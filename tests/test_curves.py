"""`ddlm plot`: what is in the picture, of one run and of several, and what is wrong in one line."""

import ast
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text

from experiments import cli, curves
from experiments.curves import Curve, draw_curves, main_curves, read_curves, write_curves
from experiments.errors import UserError
from experiments.figure import COLOURS
from experiments.training.metrics import read_metrics

ROOT = Path(__file__).parent.parent


def run(folder, scale=1.0, evaluated=True):
    """A run directory with metrics of ten steps, evaluated at two of them."""
    folder.mkdir()
    lines = []
    for step in range(1, 11):
        line = {
            "step": step,
            "train/loss_nats_per_token": scale * (3 + 2 / step),
            "train/tokens": 9,
        }
        line |= {"train/grad_norm": 0.5, "perf/tokens_per_s": 100.0 * step}
        if evaluated and step % 5 == 0:
            line |= {"eval/bound_bits_per_char": scale * 3.0, "eval/bound_bits_per_char_se": 0.25}
            line |= {f"eval_at_times/{k / 10}-{(k + 1) / 10}": 0.01 * k * step for k in range(10)}
        lines.append(json.dumps(line))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_panels_are_the_measures_with_the_errors_and_the_last_evaluation(tmp_path):
    found = read_curves(run(tmp_path / "a"))
    assert list(found) == [
        "training loss (nats per token)", "validation bound (bits per char)", "gradient norm",
        "tokens per second", "nats per token at time t",
    ]  # fmt: skip
    bound, times = found["validation bound (bits per char)"], found["nats per token at time t"]
    assert bound.x.tolist() == [5, 10] and bound.error.tolist() == [0.5, 0.5]
    np.testing.assert_allclose(times.x, np.arange(10) / 10 + 0.05)
    np.testing.assert_allclose(times.y, np.arange(10.0))  # of step 10, a density over t
    figure = draw_curves({"a": found}, "dark")
    drawn = {axes.get_title(loc="left"): axes.lines[0] for axes in figure.axes}
    assert list(drawn) == list(found)
    np.testing.assert_array_equal(drawn["tokens per second"].get_ydata(), np.arange(1, 11) * 100.0)
    assert figure.axes[1].containers[0].has_yerr and not figure.legends
    assert figure.get_facecolor()[:3] != (1, 1, 1)


def test_an_error_that_is_not_known_has_no_bar_and_a_start_far_above_others_is_cut_off():
    steps = np.arange(1.0, 9)
    loss = np.array([50.0, 3, 2.9, 2.8, 2.7, 2.6, 2.5, 2.4])
    curves = main_curves(
        {
            "train/loss_nats_per_token": (steps, loss),
            "eval/loss_nats_per_token": (np.array([4.0, 8]), np.array([3.0, 2])),
            "eval/loss_nats_per_token_se": (np.array([8.0]), np.array([0.1])),
            "perf/tokens_per_s": (steps, loss),
        }
    )
    error = curves["validation loss (nats per token)"].error
    assert np.isnan(error[0]) and error[1] == 0.2
    low = {name: replace(curve, y=curve.y.clip(0, 3)) for name, curve in curves.items()}
    figure = draw_curves({"a": curves, "b": low, "c": low})
    tops = [axes.get_ylim()[1] for axes in figure.axes]
    assert tops[0] < 4 < 50 < tops[2]  # the speed is not


def test_runs_lie_over_each_other_with_one_legend_and_their_own_colours(tmp_path):
    paths = [run(tmp_path / "a", evaluated=False), run(tmp_path / "b", 2.0)]
    figure = draw_curves({p.name: read_curves(p) for p in paths})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    colours = {
        axes.get_title(loc="left"): [l.get_color() for l in axes.lines[::1]] for axes in figure.axes
    }
    assert set(colours["training loss (nats per token)"]) == set(COLOURS[:2])
    assert set(colours["nats per token at time t"]) == {COLOURS[1]}  # of the second run alone


def test_no_run_is_lost_whatever_its_name_and_a_dollar_is_a_dollar():
    curve = {"$x^2$": Curve(np.arange(2.0), np.arange(2.0))}
    middle = [f"{'a' * 80}{k}{'z' * 80}" for k in "12"]  # of which the middle is left out
    figure = draw_curves(dict.fromkeys(["_a", "b", *middle], curve))
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:2] == ["_a", "b"] and len(texts) == 4 and texts[2] == texts[3]
    assert len(figure.axes[0].containers) == 4
    colours = [handle[0].get_color() for handle in figure.axes[0].containers]
    assert colours == list(COLOURS[:4])
    (title,) = [t for t in figure.findobj(Text) if t.get_text() == "$x^2$"]
    assert not title.get_parse_math()


@pytest.mark.parametrize(
    "runs, theme, said",
    [
        ({"a": {}}, "light", "a: no measurements yet; train for longer"),
        ({"a": {}}, "blue", "unknown theme 'blue'; choose one of light, dark"),
    ],
)
def test_what_cannot_be_drawn_is_said(runs, theme, said):
    with pytest.raises(UserError, match=said):
        draw_curves(runs, theme)


def test_the_command_writes_the_picture_where_it_is_looked_for(tmp_path, capsys, monkeypatch):
    a, b = run(tmp_path / "a"), run(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    assert cli.guarded("plot", [str(a)]) == 0 and (a / "curves.svg").read_text().startswith("<?xml")
    assert cli.guarded("plot", [str(a), str(b), "--out", "p.PNG", "--theme", "dark"]) == 0
    assert (tmp_path / "p.PNG").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.splitlines()[-1] == "plot: p.PNG"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["none"], "none: it has no metrics.jsonl; give a run directory"),
        (["empty"], "empty/metrics.jsonl: it has no measurements yet"),
        (["a", "--out", "x.txt"], "--out x.txt: the file must end in one of .avif"),
        (["a", "--theme", "blue"], "--theme"),
    ],
)
def test_mistakes_are_one_line(arguments, said, tmp_path, capsys, monkeypatch):
    run(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").write_text("not json\n")
    monkeypatch.chdir(tmp_path)
    assert cli.guarded("plot", arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error


def test_without_matplotlib_the_command_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert cli.guarded("plot", [str(run(tmp_path / "a"))]) == 2
    assert 'pip install -e ".[plot]"' in capsys.readouterr().err


def test_a_picture_that_fails_does_not_fail_the_training(tmp_path, monkeypatch):
    said = []
    write_curves(run(tmp_path / "a"), said.append)  # as without matplotlib, see conftest
    assert not said and not (tmp_path / "a" / "curves.svg").exists()
    monkeypatch.setattr(curves, "find_spec", lambda name: True)
    monkeypatch.setattr(curves, "draw_curves", lambda *_: 1 / 0)
    write_curves(tmp_path / "a", said.append)
    (line,) = said
    assert "curves.svg: could not be drawn (division by zero)" in line


def test_the_same_metrics_are_the_same_picture(tmp_path):
    found = dict([main_curves(read_metrics(run(tmp_path / "a"))).popitem()])
    one, two = (curves.image(draw_curves({"a": found}), ".svg") for _ in range(2))
    assert one == two


def test_nothing_imports_matplotlib_before_it_draws():
    for path in [*(ROOT / "experiments").rglob("*.py"), ROOT / "ddlm.py"]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "matplotlib" not in ast.unparse(node), path
