"""The commands as users run them: train, kill, resume, evaluate, sample, and every mistake."""

import json
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from experiments import cli
from experiments.training.checkpoints import Checkpoints

ROOT = Path(__file__).parent.parent
SMOKE = str(ROOT / "configs" / "smoke.py")


def train(workdir, *settings):
    """The exit code of a training run in this process."""
    sets = [word for s in settings for word in ("--set", s)]
    return cli.guarded("train", ["--config", SMOKE, "--workdir", str(workdir), *sets])


def metrics(workdir):
    """The metrics less those that are about wall-clock time."""
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in lines]


def arrays(workdir, step):
    record = Checkpoints(workdir / "checkpoints")._record(step)
    return {name: bits for name, (_, _, bits) in record["arrays"].items()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of 40 steps without interruption."""
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    assert train(workdir) == 0
    return workdir


@pytest.mark.representatives()
def test_resume_after_20_steps_is_bit_identical(straight, tmp_path):
    workdir = tmp_path / "resumed"
    assert train(workdir, "train.num_steps=20") == 0
    assert Checkpoints(workdir / "checkpoints").latest() == 20
    assert train(workdir, "train.num_steps=40") == 0
    assert arrays(workdir, 40) == arrays(straight, 40)
    assert metrics(workdir) == metrics(straight)
    meta = Checkpoints(workdir / "checkpoints").meta(40)
    assert meta["data"]["next_example"] == 40 * 16
    assert list((workdir / "tensorboard").iterdir())


@pytest.mark.representatives()
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_resumes_bit_identical(straight, tmp_path, kind):
    workdir = tmp_path / "killed"
    line = [sys.executable, "-m", "experiments.train", "--config", SMOKE, "--workdir", str(workdir)]
    with subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as p:
        while not p.stdout.readline().startswith("step 10/"):
            assert p.poll() is None, p.stderr.read()
        if kind == signal.SIGKILL:  # once a step is complete
            end = time.time() + 60
            while not Checkpoints(workdir / "checkpoints").steps() and time.time() < end:
                time.sleep(0.005)
        p.send_signal(kind)
        error = p.communicate()[1]
        if kind == signal.SIGTERM and p.returncode:
            assert p.returncode == 128 + 15 and "which is saved" in error
    assert train(workdir) == 0
    assert arrays(workdir, 40) == arrays(straight, 40)
    assert metrics(workdir) == metrics(straight)


def test_evaluation_record_of_a_whole_split(straight, tmp_path, capsys):
    out = tmp_path / "record.json"
    line = ["--workdir", str(straight), "--split", "test", "--num-times", "2", "--out", str(out)]
    assert cli.guarded("evaluate", line) == 0
    record = json.loads(out.read_text())
    assert record["kind"] == "bound" and record["ema"] and record["checkpoint_step"] == 40
    assert record["tokens"] == record["characters"] == 520_020
    assert 3.5 < record["value"] < 4.7 and f"{record['value']:.4f}" in capsys.readouterr().out
    assert 0 < record["standard_error_over_times"] <= record["standard_error"] < 0.05
    np.testing.assert_allclose(record["value"] * np.log(2), record["nats_per_token"], rtol=1e-9)
    np.testing.assert_allclose(
        sum(record["terms_nats_per_token"].values()), record["nats_per_token"]
    )
    np.testing.assert_allclose(np.exp(record["nats_per_token"]), record["perplexity_per_token"])


def test_evaluation_does_not_depend_on_batch_size_beyond_rounding(straight, tmp_path):
    values = []
    for size in (64, 256):
        out = tmp_path / f"{size}.json"
        code = cli.guarded(
            "evaluate",
            [
                "--workdir",
                str(straight),
                "--num-times",
                "1",
                "--max-sequences",
                "300",
                "--batch-size",
                str(size),
                "--out",
                str(out),
            ],
        )
        assert code == 0
        values.append(json.loads(out.read_text())["value"])
    np.testing.assert_allclose(*values, rtol=1e-5)


def test_samples_keep_what_is_given_and_depend_on_their_number_alone(straight, tmp_path, capsys):
    def draw(name, *arguments):
        out = tmp_path / name
        code = cli.guarded(
            "sample", ["--workdir", str(straight), "--steps", "8", "--out", str(out), *arguments]
        )
        assert code == 0, capsys.readouterr().err
        return [json.loads(line)["text"] for line in out.read_text().splitlines()]

    five = draw("a", "--num", "5", "--prompt", "the state of")
    assert len(five) == 5 and all(x.startswith("the state of") and len(x) == 32 for x in five)
    assert all(re.fullmatch("[a-z ]+", x) for x in five)
    assert draw("b", "--num", "3", "--batch-size", "2", "--prompt", "the state of") == five[:3]
    assert draw("c", "--num", "3", "--seed", "1", "--prompt", "the state of") != five[:3]
    (filled,) = draw("d", "--num", "1", "--template", "my ____ citizens")
    assert filled.startswith("my ") and filled[7:16] == " citizens"
    assert len(draw("e", "--num", "1", "--length", "50")[0]) == 50


def test_console_script_is_the_same_program():
    done = subprocess.run(
        [sys.executable, "-c", "from experiments.cli import main; main()", "train", "--workdir", "x"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--config" in done.stderr


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["--help"], 0, "train       Train a model from"),
        (["--version"], 0, f"ddlm {version('ddlm')}"),
        ([], 2, "error: a command is missing; one of prepare, "),
        (["trian"], 2, "error: no command trian (did you mean train?); one of prepare, "),
    ],
)
def test_the_console_script_lists_its_commands(arguments, code, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ddlm", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == code and said in "".join(capsys.readouterr())


def one_line(capsys, code=2):
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["train", "--config", SMOKE, "--set", "train.num_stps=2"], "did you mean train.num_steps"),
        (["train", "--config", SMOKE, "--set", "train.num_steps=x"], "expected int"),
        (["train", "--config", SMOKE, "--set", "data.path=/nowhere"], "does not exist"),
        (["train", "--config", SMOKE, "--set", "data.length=9999999"], "fewer than one sequence"),
        (["train", "--config", SMOKE, "--set", "mesh.data=3"], "mesh"),
        (["train", "--config", "nowhere.py"], "does not exist"),
        (["evaluate"], "does not exist; train first: ddlm train"),
        (["sample", "--steps", "0"], "--steps: 0 must be a whole number from 1 to 2147483647"),
        (["sample", "--num", "0"], "from 1 to"),
        (["sample", "--num", "9" * 20], "from 1 to 2147483647"),
        (["evaluate", "--batch-size", "9" * 5000], "from 1 to 2147483647"),
        (["train", "--config", SMOKE, "--set", "train.seed=1e20"], "train.seed = 10000000000000"),
        (["sample", "--unknown"], "--unknown"),
    ],
)
def test_mistakes_end_with_one_line_and_code_2(arguments, words, tmp_path, capsys):
    name, *rest = arguments
    assert cli.guarded(name, [*rest, "--workdir", str(tmp_path / "w")]) == 2
    assert words in one_line(capsys)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["sample", "--prompt", "a" * 33], "longer than the model's 32 tokens"),
        (["sample", "--prompt", "Über"], "'Ü' at offset 0"),
        (["sample", "--prompt", "a", "--template", "b"], "cannot be combined"),
        (["sample", "--step", "7"], "other steps: 30, 40"),
        (
            ["sample", "--sampler", "Unmask amuont=3"],
            '--sampler "Unmask amuont=3": sampler.amuont: ',
        ),
        (["sample", "--sampler", "Unmask amuont=3"], "did you mean sampler.amount?"),
        (["evaluate", "--split", "tset"], "split 'tset'"),
        (["evaluate", "--set", "evaluation.max_sequences=4"], "use --max-sequences"),
        (["evaluate", "--set", "data.path=/nowhere"], "does not exist"),
    ],
)
def test_mistakes_with_a_trained_run(straight, arguments, words, capsys):
    before = {p: p.stat().st_mtime_ns for p in straight.rglob("*")}
    name, *rest = arguments
    assert cli.guarded(name, ["--workdir", str(straight), *rest]) == 2
    assert words in one_line(capsys)
    assert {p: p.stat().st_mtime_ns for p in straight.rglob("*")} == before


def test_workdir_of_another_config_is_left_alone(straight, capsys):
    before = {p: p.stat().st_mtime_ns for p in straight.rglob("*")}
    assert train(straight, "optimizer.schedule.peak_lr=0.1") == 2
    error = one_line(capsys)
    assert "another config" in error and "optimizer.schedule.peak_lr: 0.003 -> 0.1" in error
    assert {p: p.stat().st_mtime_ns for p in straight.rglob("*")} == before


def test_damaged_checkpoint_is_told(straight, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(straight, copy)
    for path in (copy / "checkpoints" / "40" / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert cli.guarded("sample", ["--workdir", str(copy)]) == 2
    assert "is damaged" in one_line(capsys)
    assert cli.guarded("sample", ["--workdir", str(copy), "--step", "30", "--num", "1"]) == 0


@pytest.mark.parametrize("skip", [True, False])
def test_a_loss_that_is_not_finite_names_the_steps_and_is_not_saved(tmp_path, capsys, skip):
    rate = ["optimizer.schedule.peak_lr=1e30", "optimizer.clip_norm=None"]
    assert train(tmp_path / "w", *rate, f"train.skip_bad={skip}", "train.rollback_after=5") == 1
    error = one_line(capsys)
    assert re.search(r"not finite (somewhere )?in steps \d+ to \d+", error)
    assert ("no checkpoint before" in error) == skip
    assert Checkpoints(tmp_path / "w" / "checkpoints").steps() == []


def test_own_text_in_any_alphabet_end_to_end(tmp_path, capsys):
    path = tmp_path / "novel.txt"
    path.write_text("Größe: 5 naïve cafés — und so weiter.\n" * 400)
    work = str(tmp_path / "w")
    base = [
        "--config",
        SMOKE,
        "--workdir",
        work,
        "--set",
        f"data.path={path}",
        "--set",
        "train.num_steps=2",
    ]
    assert cli.guarded("train", base) == 2 and "'G' at offset 0" in one_line(capsys)
    for n, tokenizer in enumerate(["Characters", "Bytes"]):
        base[3] = work + str(n)
        assert cli.guarded("train", [*base, "--set", f"data.tokenizer={tokenizer}"]) == 0
        assert cli.guarded("evaluate", ["--workdir", base[3], "--split", "test"]) == 0
        assert (
            cli.guarded("sample", ["--workdir", base[3], "--num", "1", "--prompt", "Größe: "]) == 0
        )
        assert "[0] Größe: " in capsys.readouterr().out
        record = json.loads(next((Path(base[3]) / "records").iterdir()).read_text())
        assert (record["tokens"] > record["characters"]) == (tokenizer == "Bytes")
