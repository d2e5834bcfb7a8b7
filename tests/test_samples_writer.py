"""`ddlm sample --out`: what is drawn is kept at once, and the same command continues it."""

import fcntl
import json
import os
import threading

import pytest
from conftest import SMALL

from experiments import cli, progress
from experiments.errors import UserError
from experiments.sampling import samples
from experiments.sampling.samples_file import read_samples
from experiments.sampling.samples_writer import SamplesWriter

ABOUT = {"seed": 0, "process": "MDLM"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp("runs") / "a")
    sets = [w for s in [*SMALL, "data.length=24", "train.num_steps=0"] for w in ("--set", s)]
    assert cli.guarded("train", ["--config", "configs/smoke.py", "--workdir", workdir, *sets]) == 0
    return workdir


@pytest.fixture
def sample(run, capsys):
    def sample(*options, code=0):
        capsys.readouterr()
        assert cli.guarded("sample", ["--workdir", run, "--steps", "2", *map(str, options)]) == code
        out, err = capsys.readouterr()
        assert (err.startswith("error: ") and err.count("\n") == 1) if code else not err
        return err or out

    return sample


@pytest.fixture(scope="module")
def lines(run, tmp_path_factory):
    """Of seven samples drawn at once."""
    out = tmp_path_factory.mktemp("samples") / "s"
    options = ["--steps", "2", "--num", "7", "--out", str(out)]
    assert cli.guarded("sample", ["--workdir", run, *options]) == 0
    return out.read_bytes().splitlines(keepends=True)


@pytest.fixture
def whole(lines, tmp_path):
    """These lines, which are in the file tmp_path / "whole" too."""
    (tmp_path / "whole").write_bytes(b"".join(lines))
    return lines


def test_a_line_says_what_was_asked_for(sample, tmp_path):
    out = tmp_path / "s"
    asked = ["--template", "a_b", "--require", "qq", "--ban", "z", "--set", "sampler.cached=False"]
    sample("--num", 1, "--seed", 3, *asked, "--out", out)
    line = json.loads(out.read_text())
    assert line["number"] == 0 and line["seed"] == 3 and line["length"] == len(line["text"]) == 24
    assert (line["template"], line["blank"], line["require"]) == ("a_b", "_", ["qq"])
    assert line["sampler"]["logits_processor"]["banned"] and line["network_calls"] == 3
    assert {"prompt", "label", "guidance", "exact", "set", "classifier_fingerprint"}.isdisjoint(
        line
    )


@pytest.mark.parametrize("held, cut", [(0, 0), (0, 30), (1, 1), (3, 0), (3, -1), (7, 0), (7, 9)])
def test_the_same_command_continues_to_the_same_file(held, cut, whole, sample, tmp_path):
    out = tmp_path / "s"
    begun = whole[min(held, 6)][:cut] if cut else b""
    out.write_bytes(b"".join(whole[:held]) + begun)
    kept = out.stat().st_ino
    said = sample("--num", 7, "--batch-size", 2, "--out", out)
    expected = b"".join(whole) + (begun if held == 7 else b"")  # to which nothing was added
    assert out.read_bytes() == expected and out.stat().st_ino == kept
    assert (f"{held} samples exist" in said) == (held > 0) and "[" not in said


def test_fewer_samples_than_are_there_lose_none(whole, sample, tmp_path):
    sample("--num", 3, "--out", tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == b"".join(whole)


def test_nothing_is_drawn_that_is_there(whole, sample, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "make_sample", lambda *_: lambda *_: 1 / 0)
    sample("--num", 7, "--out", tmp_path / "whole")


def test_a_trace_shows_the_samples_that_were_there_too_and_so_does_a_play(
    whole, run, tmp_path, monkeypatch
):
    out, trace, played = tmp_path / "s", tmp_path / "t.html", []
    out.write_bytes(b"".join(whole[:3]))
    monkeypatch.setattr("experiments.sample.on_terminal", lambda: True)

    def interrupted(*given):
        played.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.sampling.watch.watch", interrupted)
    words = ["--num", 7, "--steps", 2, "--out", out, "--trace", trace, "--watch"]
    assert cli.guarded("sample", ["--workdir", run, *map(str, words)]) == 130
    assert out.read_bytes() == b"".join(whole) and trace.read_text().count('"number":') == 7
    ((record, texts),) = played
    assert [len(one["tokens"]) for one in record["samples"]] == [3] * 7  # of two steps
    assert texts == [f"[{n}] {json.loads(line)['text']}" for n, line in enumerate(whole)]


OTHER = [
    (["--seed", "1"], "seed: 0 there, 1 now"),
    (["--prompt", "the"], "prompt: none there, the now"),
    (["--template", "a_"], "template: none there, a_ now"),
    (["--require", "qq"], "require: none there"),
    (["--steps", "3"], "sampler: "),
    (["--temperature", "0.5"], "sampler: "),
    (["--length", "23"], "length: 24 there, 23 now"),
    (["--set", "evaluation.num_times=2"], "set: none there"),
]


@pytest.mark.parametrize("options, said", OTHER, ids=lambda v: str(v)[:30])
def test_samples_of_another_kind_are_not_mixed(options, said, whole, sample, tmp_path):
    out = tmp_path / "whole"
    error = sample("--num", 9, *options, "--out", out, code=2)
    assert f"{out} exists and holds other samples ({said}" in error and "--force" in error
    assert out.read_bytes() == b"".join(whole)


def test_force_replaces_what_is_there(whole, sample, tmp_path):
    for content in (b"a text\n", b"".join(whole)):
        (tmp_path / "s").write_bytes(content)
        sample("--num", 2, "--batch-size", 7, "--out", tmp_path / "s", "--force")
        assert (tmp_path / "s").read_bytes() == b"".join(whole[:2])


@pytest.mark.parametrize(
    "content, said",
    [
        (b"a user's own text\n", "its line 1 is no sample"),
        (b"a user's own text", "does not end with a sample"),
        (b"\x00\xff\n", "its line 1 is no sample"),
        (b'{"number": 0}\n', "its line 1 is no sample"),
        (b'{"text": "a", "seed": 0, "process": "MDLM"}\n', "its line 1 is not sample 0"),
        (b'{"number": 1, "text": "a", "seed": 0, "process": "MDLM"}\n', "is not sample 0"),
        (
            b'{"number": 0, "text": "a", "seed": 0, "process": "MDLM"}\n\n',
            "its line 2 is no sample",
        ),
    ],
)
def test_what_is_no_file_of_samples_is_not_touched(content, said, tmp_path):
    path = tmp_path / "s"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        SamplesWriter(str(path), ABOUT, force=False)
    assert path.read_bytes() == content
    with SamplesWriter(str(path), ABOUT, force=True):  # nothing is drawn yet
        assert path.read_bytes() == content


def test_every_sample_is_in_the_file_as_soon_as_it_is_drawn(tmp_path):
    path = tmp_path / "new" / "s"
    with SamplesWriter(str(path), ABOUT, force=False) as writer:
        for number in range(3):
            writer.write(number, f"text {number}", 4)
            assert len(read_samples(path)) == number + 1
    with SamplesWriter(str(tmp_path / "none"), ABOUT, force=False):
        pass
    assert not (tmp_path / "none").exists()


def test_a_full_disk_is_one_line():
    with (
        pytest.raises(UserError, match=r"/dev/full: could not be written .No space"),
        SamplesWriter("/dev/full", ABOUT, force=False) as writer,
    ):
        writer.write(0, "text", 1)


def test_two_processes_do_not_write_one_file(tmp_path):
    path = tmp_path / "s"
    with SamplesWriter(str(path), ABOUT, force=False) as writer:
        writer.write(0, "text", 1)
        for force in (False, True):
            with pytest.raises(UserError, match="another process writes its samples there"):
                SamplesWriter(str(path), ABOUT, force)
    with SamplesWriter(str(path), ABOUT, force=False) as writer:
        assert writer.start == 1


def test_a_file_system_without_locks_does(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with SamplesWriter(str(tmp_path / "s"), ABOUT, force=False) as writer:
        writer.write(0, "text", 1)
    assert len(read_samples(tmp_path / "s")) == 1


def test_pipes_and_links_get_the_samples(whole, sample, tmp_path):
    pipe, link, got = tmp_path / "pipe", tmp_path / "link", []
    os.mkfifo(pipe)
    link.symlink_to("target")
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    sample("--num", 7, "--out", pipe)
    reader.join(20)
    sample("--num", 7, "--out", link)
    assert got == [b"".join(whole)] and (tmp_path / "target").read_bytes() == b"".join(whole)
    assert link.is_symlink()


def test_quality_reads_a_file_that_grows(whole, tmp_path):
    path = tmp_path / "s"
    for cut in (1, 12, 30, len(whole[1]) - 1):
        path.write_bytes(whole[0] + whole[1][:cut])
        assert len(read_samples(path)) == (2 if cut == len(whole[1]) - 1 else 1)
    path.write_bytes(whole[0] + b'{"text": "b"}')  # somebody's own, which has no end of line
    assert len(read_samples(path)) == 2
    path.write_bytes(whole[0] + b'{"text": "b"')
    with pytest.raises(UserError, match="s:2: not a line of JSON"):
        read_samples(path)


def test_progress_is_said_with_the_time_left_but_of_the_first_batch(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_OFTEN", -1)
    said = sample("--num", 6, "--batch-size", 2, "--out", tmp_path / "s").splitlines()
    assert said[0] == "2 of 6 samples" and said[1].startswith("4 of 6 samples, ")
    assert said[1].endswith("s left")
    assert said[2:] == ["6 of 6 samples", f"samples: {tmp_path / 's'}"]


def test_the_time_left_counts_no_compilation(monkeypatch):
    clock, said = iter([0.0, 100.0, 107.0, 114.0]), []
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    tell = progress.Progress(said.append, "samples")
    for done in (1000, 1010, 1020):  # of which 990 were there
        tell(done, 2000)
    assert said == [
        "1,000 of 2,000 samples",
        "1,010 of 2,000 samples, 11m33s left",
        "1,020 of 2,000 samples, 11m26s left",
    ]


def test_what_was_drawn_before_an_interrupt_is_kept_and_continued(
    whole, run, sample, tmp_path, monkeypatch, capsys
):
    class Interrupting(progress.Progress):
        def __call__(self, done, total):
            if done == 4:
                raise KeyboardInterrupt

    options = ["--num", 7, "--batch-size", 2, "--out", tmp_path / "s"]
    with monkeypatch.context() as patched:
        patched.setattr(progress, "Progress", Interrupting)
        line = ["--workdir", run, "--steps", "2", *map(str, options)]
        assert cli.guarded("sample", line) == 130 and capsys.readouterr().err == "interrupted\n"
    assert (tmp_path / "s").read_bytes() == b"".join(whole[:4])
    sample(*options)
    assert (tmp_path / "s").read_bytes() == b"".join(whole)
