"""What is said of time: what is left, without the compilation, and the speed of finished steps."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import SimpleNamespace

import numpy as np
import pytest

from configs.smoke import get_config
from experiments import progress, streams
from experiments.overrides import override
from experiments.progress import Progress, duration
from experiments.training import meter
from experiments.training.meter import Meter
from experiments.training.metrics import NoMetrics
from experiments.training.monitor import evaluated

TOTALS = {"loss": 2.0, "grad_norm": 1.0, "steps": 1.0}
HEALTH = {"skipped": 0, "retry": 0}


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand; its perf_counter is that of what is tested."""
    clock = SimpleNamespace(now=100.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(meter, "time", clock)
    return clock


@pytest.mark.parametrize("compilation", [0, 600])
def test_time_left_does_not_count_the_compilation(clock, compilation):
    said = []
    told = Progress(said.append)
    clock.now += compilation + 3
    for part in range(1, 11):
        told(part * 32, 320)
        clock.now += 3
    first = ["32 of 320 sequences"] if compilation else []
    assert [line for line in said if "left" not in line] == [*first, "320 of 320 sequences"]
    left = {line.split()[0]: line.split(", ")[1] for line in said if "left" in line}
    assert len(left) >= 4
    assert all(left[done] == f"0m{3 * (10 - int(done) // 32):02d}s left" for done in left)


def test_work_of_one_part_has_no_time_left(clock):
    said = []
    told = Progress(said.append, "rows")
    clock.now += 50
    told(7, 7)
    assert said == ["7 of 7 rows"]
    told = Progress(said.append)
    for done in (1, 2):
        clock.now += 1
        told(done, 2)
    assert said == ["7 of 7 rows"]  # nothing of what is soon done


def test_durations():
    assert [duration(s) for s in (0, 59.6, 725, 7500)] == ["0m00s", "1m00s", "12m05s", "2h05m"]


@contextmanager
def terminal(name="xterm"):
    """Standard output is a terminal of that name; gives a list that holds what was written there."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    written = []
    with pytest.MonkeyPatch.context() as patched, open(slave, "w") as stream:
        patched.setenv("TERM", name)
        with redirect_stdout(stream):
            yield written
        print("end", file=stream, flush=True)
        while not b"".join(written).endswith(b"end\r\n"):
            written.append(os.read(master, 1 << 16))
        written[:] = [b"".join(written).decode()]
    os.close(master)


@pytest.mark.parametrize("log", [streams.log, None])
def test_on_a_terminal_a_bar_says_how_far_and_goes_also_where_the_work_is_interrupted(log):
    with terminal() as written, pytest.raises(KeyboardInterrupt), Progress(log, "rows") as told:
        told(32, 320)
        told._bar.refresh()
        raise KeyboardInterrupt
    assert re.search(r"rows.*32/320", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written[0]))
    assert "\x1b[?25h" in written[0]  # the cursor is there again


def test_what_is_said_beside_a_bar_is_as_it_is():
    line = "[0] " + "words [bold] :smile: " * 20
    with terminal() as written, Progress(None, "rows") as told:
        told.say(line)
    assert f"{line}\r\n" in written[0]


def test_what_goes_to_standard_error_that_is_a_file_stays_there_beside_a_bar(tmp_path):
    path = tmp_path / "errors"
    with path.open("w") as file, redirect_stderr(file), terminal() as written, Progress(None):
        print("a warning", file=sys.stderr)
    assert path.read_text() == "a warning\n" and "a warning" not in written[0]


def test_what_is_logged_elsewhere_stays_lines_and_so_does_a_dumb_terminal(clock):
    said = []
    for name, log in (("xterm", said.append), ("dumb", streams.log), ("dumb", None)):
        with terminal(name) as written, Progress(log, "rows") as told:
            clock.now += 50
            told(7, 9)
        assert written == ["7 of 9 rows\r\nend\r\n" if log is streams.log else "end\r\n"]
    assert said == ["7 of 9 rows"]


def speeds(clock, reads):
    """Steps a second of each read at (time, step read, step started, step finished), None without."""
    experiment = get_config()
    measured = Meter(experiment, 0, lambda line: None)
    tokens = experiment.train.batch_size * experiment.data.length
    found = []
    for time, step, started, finished in reads:
        clock.now = time
        _, values = measured.read(step, TOTALS, HEALTH, started, finished)
        speed = values.get("perf/tokens_per_s")
        found.append(None if speed is None else speed / tokens)
    return found


@pytest.mark.parametrize("inline", [False, True], ids=["a step ahead", "done when dispatched"])
def test_speed_is_that_of_the_steps_that_finished(clock, inline):
    """Steps of 2 s, of which each is read when the next was started; the sixth is read at once, before
    a save: with the fifth, where steps are done when the dispatch returns."""
    reads = []
    for step in range(1, 6):
        started = step + 1
        finished = started if inline else step
        reads.append((600 + 2 * finished, step, started, finished))
    reads.append((600 + 2 * 6 + 1e-5, 6, 6, 6))
    for step in range(7, 11):
        finished = step + 1 if inline else step
        reads.append((600 + 2 * finished, step, step + 1, finished))
    found = speeds(clock, reads)
    assert found[0] is None and found[5] is None
    np.testing.assert_allclose([s for s in found if s is not None], 0.5, rtol=1e-5)


def test_pauses_are_no_part_of_the_speed(clock):
    measured = Meter(get_config(), 0, lambda line: None)
    measured.read(1, TOTALS, HEALTH, 2, 1)
    with measured.paused():
        clock.now += 1000
    clock.now += 4
    _, values = measured.read(3, TOTALS, HEALTH, 4, 3)
    assert values["perf/tokens_per_s"] == pytest.approx(16 * 32 * 2 / 4)


def test_a_small_loss_is_not_shown_as_none(clock):
    lines = []
    measured = Meter(get_config(), 0, lines.append)
    for number, loss in enumerate((3.0, 2.5e-5), 1):
        clock.now += 1
        measured.read(number, TOTALS | {"steps": 1, "loss": loss}, HEALTH, number, number)
    assert "loss 3.0000 " in lines[0] and "loss 2.5e-05 " in lines[1]


def test_a_validated_bound_says_whether_it_is_of_averaged_parameters():
    lines = []
    values = {"eval/bound_bits_per_char": 2.0, "eval/bound_bits_per_char_se": 0.1}
    for decay in (0.0, 0.9):
        experiment = override(get_config(), [f"train.ema_decay={decay}"])
        evaluated(lambda ema: values, {"ema": {}}, 4, experiment, NoMetrics(), lines.append)
    start = "step 4: validation bound 2.0000 +- 0.1000 bits/char"
    assert lines == [f"{start} (on a sample)", f"{start} (EMA, on a sample)"]
