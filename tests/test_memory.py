"""What does not fit into memory is told before it runs, with what would."""

import re

import jax
import pytest
from test_fault_injection import SETTINGS
from test_programs import SMOKE

from experiments import cli
from experiments.devices import memory


def command(name, *arguments):
    return cli.guarded(name, list(map(str, arguments)))


def train(workdir, *settings):
    sets = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    return command("train", "--config", SMOKE, "--workdir", workdir, *sets)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "w"
    assert train(workdir, "train.num_steps=0") == 0
    return workdir


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.fixture
def needed(monkeypatch):
    """The bytes of each program that is checked."""
    found, real = [], memory._too_large

    def spy(size, *arguments):
        fixed = size.argument_size_in_bytes + size.output_size_in_bytes - size.alias_size_in_bytes
        found.append(fixed + size.temp_size_in_bytes)
        return real(size, *arguments)

    monkeypatch.setattr(memory, "_too_large", spy)
    return found


@pytest.mark.parametrize(
    "setting, said",
    [
        ("train.batch_size=10000000", r"10,000,000 sequences x 32 .* GB; some [\d,]+ fit: lower"),
        ("train.batch_size=2147483647", r"2,147,483,647 sequences x 32 .* lower train.batch_size"),
        (
            "data.length=200000",
            r"4 sequences x 200,000 .* not even one .* data.length to some \d",
        ),
    ],
)
def test_a_step_that_is_too_large_leaves_no_directory(tmp_path, capsys, setting, said):
    assert train(tmp_path / "w", setting) == 2
    assert re.search(said, one_line(capsys))
    assert not (tmp_path / "w").exists()


def test_what_is_said_to_fit_does(tmp_path, capsys, monkeypatch, needed):
    settings = "train.batch_size=64", "train.num_steps=1", "train.eval_every=2"
    assert train(tmp_path / "whole", *settings) == 0
    half = needed[0] // 2
    monkeypatch.setattr(memory, "device_memory", lambda: half)
    assert train(tmp_path / "w", *settings) == 2
    (said,) = re.findall(
        r"some (\d+) fit: lower train.batch_size / train.accumulation", one_line(capsys)
    )
    assert 16 <= int(said) < 32
    assert train(tmp_path / "other", *settings, f"train.batch_size={said}") == 0
    assert needed[-1] > 0.8 * half


def test_evaluations_that_are_too_large_are_told_before_the_first_step(
    tmp_path, capsys, monkeypatch
):
    sizes = iter([1 << 40, 1 << 20])  # enough for the step
    monkeypatch.setattr(memory, "device_memory", lambda: next(sizes))
    large = "evaluation.batch_size=512", "evaluation.max_sequences=256"
    assert train(tmp_path / "w", *large) == 2
    error = one_line(capsys)
    assert "256 sequences x 32 positions" in error and "lower evaluation.batch_size" in error
    assert not (tmp_path / "w").exists()


def test_evaluating_and_sampling_too_many_at_a_time_is_told(trained, capsys, monkeypatch):
    monkeypatch.setattr(memory, "device_memory", lambda: 1 << 20)
    most = 2**31 - 1
    few = ["--workdir", trained, "--max-sequences", 200, "--num-times", 1]
    assert command("evaluate", *few, "--batch-size", most) == 2
    assert "200 sequences x 32 positions" in one_line(capsys)  # no more than there are
    many = ["--num", most, "--steps", 2, "--batch-size", 1 << 24]
    assert command("sample", "--workdir", trained, *many) == 2
    assert "lower --batch-size" in one_line(capsys)


def test_memory_is_that_of_the_cgroup_where_it_is_less(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_swap", lambda: 0)
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    names = ("memory.max", "memory.high")
    assert memory._limits(tmp_path, "/a/b", names) == []
    (inner / "memory.max").write_text("max\n")
    (inner / "memory.high").write_text("3000\n")
    (tmp_path / "a" / "memory.max").write_text("2000\n")
    (tmp_path.parent / "memory.max").write_text("1\n")
    assert sorted(memory._limits(tmp_path, "/a/b", names)) == [2000, 3000]
    assert memory._limits(tmp_path, "/not/here", names) == []
    monkeypatch.setattr(memory, "_limits", lambda *_: [5 << 20])
    assert memory.host_memory() == 5 << 20
    assert memory.device_memory() == (5 << 20) // jax.local_device_count()
