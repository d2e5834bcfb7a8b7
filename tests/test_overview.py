"""Help, configs and runs: what a user sees before anything is computed."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import cli
from experiments.errors import UserError
from experiments.locks import LOCK, held
from experiments.overrides import load
from experiments.overview.configs import configs
from experiments.overview.runs import Measured, read_run, run_folders, runs

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_begins_with_a_sentence_and_ends_with_examples_that_parse(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = importlib.import_module(f"experiments.{name}").command_line()
    shown = options.format_help()
    assert re.match(rf"[A-Z][^.\n]+\.\n\nusage: ddlm {name}\b", shown), shown
    examples = shown.partition("\nexamples:\n")[2].splitlines()
    assert 1 <= len(examples) <= 3
    for example in examples:
        example = re.sub(r'eval "\$\((.*)\)"', r"\1", example).partition(" > ")[0]
        program, command, *words = shlex.split(example)
        assert (program, command) == ("ddlm", name)
        args = options.parse_intermixed_args(words)
        named = getattr(args, "config", None) or []
        assert all(Path(path).is_file() for path in ([named] if isinstance(named, str) else named))


def test_the_help_of_all_has_every_command_once_with_its_sentence(capsys):
    assert cli._bounded(lambda: cli._about("--help"), []) == 0
    shown = capsys.readouterr().out
    for name in cli.COMMANDS:
        sentence = importlib.import_module(f"experiments.{name}").__doc__.splitlines()[0]
        assert re.findall(rf"^  {name} +(.*)$", shown, re.MULTILINE) == [sentence]
    for example in re.findall(r"^  (ddlm .*)$", shown, re.MULTILINE):
        words = shlex.split(example)[1:]
        importlib.import_module(f"experiments.{words[0]}").command_line().parse_args(words[1:])


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_programs_are_kept_of_commands_that_compile_alone(name, monkeypatch):
    kept = []
    monkeypatch.setattr(cli, "_use_huge_pages", lambda: None)
    monkeypatch.setattr(cli, "keep_programs", lambda: kept.append(name))
    monkeypatch.setattr(cli, "guarded", lambda *_: 0)
    with pytest.raises(SystemExit):
        cli._run(name, [])
    compiling = (
        "train",
        "plan",
        "sample",
        "compress",
        "decompress",
        "evaluate",
        "quality",
        "score",
    )
    assert bool(kept) == (name in (*compiling, "prepare", "compare", "scaling"))


def test_configs_are_all_there_with_the_first_line_of_their_docstring(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = {str(config.path): config.what for config in configs()}
    files = [p for p in Path("configs").rglob("*.py") if p.name != "__init__.py"]
    assert found == {str(p): p.read_text().split('"""')[1].splitlines()[0] for p in files}


def test_the_name_of_a_config_can_be_given_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    name = Path("configs/sotu/quickstart.py")
    assert [c.path for c in configs("quickstart.py")] == [name]
    assert type(load(str(name)).process).__name__ == "MDLM"
    name.parent.mkdir(parents=True)
    name.write_text("from configs.sotu.udlm import get_config\n")
    assert type(load(str(name)).process).__name__ == "UDLM"
    assert [c.path for c in configs("quickstart.py")] == [ROOT / name]


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("UDLM.py", ["sotu/udlm", "text8/udlm"]),
        ("sotu*dirichlet flow", ["sotu/dirichlet", "sotu/dirichlet_one_step", "sotu/linear_flow"]),
    ],
)
def test_configs_are_chosen_by_path_and_description(pattern, names):
    found = [str(c.path).removesuffix(".py").partition("configs/")[2] for c in configs(pattern)]
    assert found == names


def test_no_config_is_one_line(capsys):
    assert cli.guarded("configs", ["nothing-like-it"]) == 2
    assert capsys.readouterr().err == (
        "error: no config has 'nothing-like-it' in its path or description; ddlm configs lists all of "
        "them\n"
    )


def test_measured_results_are_those_of_the_measurements():
    text = (ROOT / "docs" / "measurements.md").read_text()
    pairs = re.findall(r"(?=\b(\d\.\d{3,4})(?: \+- | \| )(\d\.\d{3,4}))", text)
    stated = {(f"{float(a):.3f}", f"{float(b):.3f}") for a, b in pairs}
    measured = {c.path: c.measured for c in configs() if c.measured}
    assert len(measured) > 10
    for path, words in measured.items():
        value, error = re.search(r"(\d\.\d{3}) \+- (\d\.\d{3}) bits per character", words).groups()
        near = f"{float(error) + 0.001:.3f}", f"{float(error) - 0.001:.3f}"  # rounded twice
        assert {(value, e) for e in (error, *near)} & stated, f"{path}: {words}"


def line(step, **values):
    return json.dumps({"step": step, **{k.replace("__", "/"): v for k, v in values.items()}}) + "\n"


def make_run(folder, lines, planned=20, saved=(), record=None):
    """The files of a run as training and evaluation leave them."""
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(lines))
    (folder / "config.json").write_text(json.dumps({"train": {"num_steps": planned}}))
    for step in saved:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
    if record:
        (folder / "records").mkdir()
        (folder / "records" / "test-20.json").write_text(json.dumps(record))
    return folder


LINES = [
    line(10, train__loss_nats_per_token=2.5),
    line(10, eval__bound_bits_per_char=3.25, eval__bound_bits_per_char_se=0.5),
    line(20, train__loss_nats_per_token=2.25),
    line(20, eval__bound_bits_per_char=3.5, eval__bound_bits_per_char_se=0.25),
]
RECORD = {"value": 3.0, "unit": "bits per byte", "standard_error": 0.125}


def test_a_run_tells_its_newest_and_best_numbers(tmp_path):
    run = read_run(make_run(tmp_path / "a", LINES, saved=(10, 20), record=RECORD))
    assert (run.state, run.step, run.planned, run.loss, run.faults) == (
        "finished",
        20,
        20,
        2.25,
        (),
    )
    assert run.newest == Measured(3.5, 0.25, "bits/char", "step 20")
    assert run.best == Measured(3.25, 0.5, "bits/char", "step 10")
    assert run.record == Measured(3.0, 0.125, "bits/byte", "test-20")
    assert str(run.record) == "3.000 +- 0.125 bits/byte (test-20)"


def test_a_loss_that_ranks_checkpoints_is_not_called_a_bound(tmp_path):
    lines = [line(10, eval__loss_nats_per_token=1.5, eval__loss_nats_per_token_se=None)]
    newest = read_run(make_run(tmp_path / "a", lines)).newest
    assert newest == Measured(1.5, None, "nats/token", "loss, step 10")


def test_a_run_is_running_while_its_lock_is_held_and_then_stopped(tmp_path):
    folder = make_run(tmp_path / "a", LINES, planned=30, saved=(20,))
    with held(folder / LOCK, "it"):
        assert read_run(folder).state == "running"
        with pytest.raises(UserError, match="in use"), held(folder / LOCK, "it"):
            pass
    assert read_run(folder).state == "stopped"
    (folder / LOCK).write_text("left by a kill")
    assert read_run(folder).state == "stopped"
    assert (folder / LOCK).read_text() == "left by a kill"


def test_the_run_that_moved_last_is_at_the_end_at_any_depth(tmp_path):
    for age, name in enumerate(["c", "deep/er/a", "b"]):
        for path in [make_run(tmp_path / name, LINES), *(tmp_path / name).iterdir()]:
            os.utime(path, (1000 - age, 1000 - age))
    make_run(tmp_path / ".hidden" / "d", LINES)
    assert [run.workdir.name for run in runs(tmp_path)] == ["b", "a", "c"]
    assert list(run_folders(tmp_path / "b")) == [tmp_path / "b"]


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("config.json", b"{", "config.json cannot be read (Expecting "),
        ("config.json", b"[]", "config.json cannot be read (it is of another form"),
        ("metrics.jsonl", "".join([*LINES, "{oops\n"]).encode(), "metrics.jsonl: 1 of its lines"),
        (
            "config.json",
            b'{"train": {"num_steps": 1e999}}',
            "train.num_steps is Infinity, no finite",
        ),
        (
            "metrics.jsonl",
            "".join([*LINES, '{"step": 20, "a": ' + "[" * 10**5 + "]" * 10**5 + "}\n"]).encode(),
            "metrics.jsonl: 1 of its lines",
        ),
        (
            "metrics.jsonl",
            "".join([*LINES, '{"step": ' + "9" * 5000 + "}\n"]).encode(),
            "metrics.jsonl: 1 of its lines",
        ),
        (
            "metrics.jsonl",
            "".join(
                [*LINES, '{"step": 30, "train/loss_nats_per_token": 1' + "0" * 400 + "}\n"]
            ).encode(),
            "metrics.jsonl: 1 of its lines",
        ),
        (
            "metrics.jsonl",
            LINES[0].encode() + b"\xff" + LINES[1].encode(),
            "metrics.jsonl: 1 of its",
        ),
        ("records/test-20.json", b'{"value": NaN}', "test-20.json cannot be read (value is NaN, "),
        (
            "records/test-20.json",
            b'{"value": 1.0}',
            "('standard_error' is missing",
        ),
    ],
)
def test_what_is_damaged_is_a_line_and_the_rest_is_read(name, content, said, tmp_path, capsys):
    make_run(tmp_path / "good", LINES, saved=(20,))
    bad = make_run(tmp_path / "bad", LINES, saved=(20,), record=RECORD)
    (bad / name).write_bytes(content)
    assert cli.guarded("runs", [str(tmp_path)]) == 0
    out = capsys.readouterr().out
    (fault,) = [x for x in out.splitlines() if x.startswith("damaged: ")]
    assert said in fault and str(bad) in fault
    assert re.search(r"good +finished +20/20 +2.250 +3.500 \+- 0.250 bits/char \(step 20\)", out)
    assert re.search(r"bad +(stopped +20 |finished +20/20 )", out)


def test_no_name_or_unit_controls_the_terminal(tmp_path, capsys):
    bad = make_run(tmp_path / "\x1b[2J\nb", LINES, record=RECORD | {"unit": "\x1b[31m\n"})
    (bad / "config.json").write_text("{")
    assert cli.guarded("runs", [str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and out.count("\n") == 3
    assert r"\x1b[2J\nb" in out and r"3.000 +- 0.125 \x1b[31m\n (test-20)" in out


def test_a_last_line_on_its_way_is_no_damage(tmp_path):
    run = read_run(make_run(tmp_path / "a", [*LINES, '{"step": 30, "tra']))
    assert run.step == 20 and run.faults == ()


def test_no_runs_and_no_folder_say_what_to_do(tmp_path, capsys):
    assert cli.guarded("runs", [str(tmp_path)]) == 0
    assert "ddlm train --config CONFIG --workdir" in capsys.readouterr().out
    assert cli.guarded("runs", [str(tmp_path / "none")]) == 2
    assert "does not exist; give the folder of your runs" in capsys.readouterr().err


def test_looking_around_imports_neither_jax_nor_numpy_and_writes_nothing(tmp_path):
    make_run(tmp_path / "runs" / "a", LINES, record=RECORD)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    code = (
        "import sys; from experiments import cli; "
        "codes = [cli.guarded('configs', []), cli.guarded('runs', ['runs'])]; "
        "print(codes, sorted({'jax', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "DDLM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.stderr == "[0, 0] []\n"
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
