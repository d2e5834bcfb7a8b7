"""Files of metrics that cannot be written or read: one line, nothing lost, and the run goes on later."""

import errno
import os
from pathlib import Path

import pytest
from test_fault_injection import full_disk

from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.training.metrics import DAMAGED, Metrics, read_metric


def test_metrics_on_a_full_disk_are_one_line_and_go_on_later(tmp_path, capfd):
    with Metrics(tmp_path, 0) as written:
        written.write(1, {"a": 1.0})
    size = max(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    rejected = pytest.raises(UserError, match="metrics could not be written")
    with full_disk(size + 300), rejected as caught, Metrics(tmp_path, 1) as written:
        for step in range(2, 99):
            written.write(step, {"a": float(step)})
    assert "\n" not in str(caught.value) and "continues from the newest" in str(caught.value)
    assert capfd.readouterr().err == ""
    assert len(read_metric(tmp_path, "a")) > 2
    with Metrics(tmp_path, 1) as written:
        written.write(2, {"a": 4.0})
    assert read_metric(tmp_path, "a") == [(1, 1.0), (2, 4.0)]


def test_a_file_on_a_read_only_file_system_is_one_line(tmp_path, monkeypatch):
    """Taking the temporary file away fails there too."""
    number = errno.EROFS

    def failing(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("builtins.open", failing)
    monkeypatch.setattr(Path, "unlink", failing)
    with pytest.raises(UserError, match=r"could not be written \(Read-only"):
        write_atomically(tmp_path / "a.json", "{}")


def test_a_continuation_keeps_lines_that_cannot_be_read_aside_and_says_which(tmp_path):
    path, aside = tmp_path / "metrics.jsonl", tmp_path / DAMAGED
    good = [b'{"step": 1, "a": 1.0}', b'{"step": 2, "a": 2.0}', b'{"step": 3, "a": 3.0}']
    bad = [b'{"step": 1, "a"', b"\0\0\xff", b'{"a": 1}', b'{"step": "2"}', b"[2]"]
    path.write_bytes(b"\n".join([good[0], *bad, *good[1:], b'{"step": 4, "a"']))
    lines = []
    with Metrics(tmp_path, 2, lines.append):
        pass
    cut, kept = lines
    assert cut == f"{path}: its last line was cut short and is removed"
    assert "unreadable lines: 5 (number 2, 3, 4, 5, ...)" in kept
    assert kept.endswith(f"moved to {aside}")
    assert path.read_bytes() == b"\n".join(good[:2]) + b"\n"
    assert aside.read_bytes() == b"\n".join(bad) + b"\n"
    for _ in range(2):
        with Metrics(tmp_path, 2, lines.append):
            pass
    assert len(lines) == 2 and aside.read_bytes() == b"\n".join(bad) + b"\n"
    path.write_bytes(b"\0\n" + good[0] + b"\n")
    with Metrics(tmp_path, 2, lines.append):
        pass
    assert "unreadable lines: 1 (number 1)" in lines[2]
    assert aside.read_bytes() == b"\n".join([*bad, b"\0"]) + b"\n"
