"""Metrics that go to a tracker: all of them, in order, to one run; and no tracker ends a training."""

import json
import sys
import threading
from dataclasses import dataclass, replace
from functools import partial
from importlib.machinery import ModuleSpec
from types import SimpleNamespace as Made

import pytest

from configs import smoke
from experiments import cli
from experiments.errors import Stopped
from experiments.overrides import differences, load, override
from experiments.serialization import decode, encode
from experiments.trackers.mlflow_tracking import MLflow
from experiments.trackers.tracker import TrackedRun, Tracker
from experiments.trackers.weights_and_biases import WeightsAndBiases
from experiments.training import tracking as module
from experiments.training import trainer
from experiments.training.metrics import Metrics, read_metric
from experiments.training.tracking import RUN, tracking

SETTINGS = {
    "process": "MDLM",
    "train.num_steps": 3,
    "data.splits": ("a", "b", ""),
    "data.path": None,
}
PLAIN = SETTINGS | {"data.splits": "('a', 'b', '')"}


class Service:
    """What a service was sent, in place of its library: settings, metrics and ends of runs by id."""

    def __init__(self):
        self.settings, self.metrics, self.ends, self.made = {}, {}, {}, {}

    def metric(self, run, step, name, value):
        assert self.ends.get(run) in (None, "RUNNING"), "logged to a run that has ended"
        self.metrics.setdefault(run, []).append((step, name, value))


class Wandb:
    """The parts of wandb's library that are used."""

    def __init__(self, service):
        self.service = service

    def Settings(self, **given):
        return given

    def init(self, project, name, id, resume, dir, config, settings):
        assert (project, resume, settings) == ("ddlm", "allow", {"console": "off"})
        self.service.made[id], self.service.ends[id] = name, "RUNNING"
        self.service.settings.setdefault(id, {}).update(config)
        run = Made(id=id, define_metric=self.define_metric)
        run.log, run.finish = partial(self.log, id), partial(self.finish, id)
        return run

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, run, values):
        step = values.pop("step")
        for name, value in values.items():
            self.service.metric(run, step, name, value)

    def finish(self, run, exit_code):
        self.service.ends[run] = "FAILED" if exit_code else "FINISHED"


class Mlflow:
    """The parts of mlflow's library that are used, its client being the library itself."""

    entities = Made(Metric=lambda *of: of, Param=lambda *of: of)

    def __init__(self, service):
        self.service = service

    def MlflowClient(self, uri):
        assert uri is None
        return self

    def get_experiment_by_name(self, name):
        return Made(experiment_id=name) if name in self.service.made else None

    def create_experiment(self, name):
        self.service.made[name] = None
        return name

    def create_run(self, experiment, run_name):
        run = f"{experiment}-{run_name}-{len(self.service.ends)}"
        self.service.made[run], self.service.ends[run] = run_name, "RUNNING"
        return Made(info=Made(run_id=run))

    def update_run(self, run, status):
        assert run in self.service.ends, "no such run"
        self.service.ends[run] = status

    set_terminated = update_run

    def log_batch(self, run, metrics=(), params=()):
        settings, texts = (
            self.service.settings.setdefault(run, {}),
            {str(v): v for v in PLAIN.values()},
        )
        assert len(params) <= 100 and not {name for name, _ in params} & set(settings)
        settings.update((name, texts[value]) for name, value in params)
        for name, value, _, step in metrics:
            self.service.metric(run, step, name, value)


@pytest.fixture
def service(monkeypatch):
    """A service, in the place of that of either library."""
    made = Service()
    for name, parts in (("wandb", Wandb(made)), ("mlflow", Mlflow(made))):
        parts.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, parts)
    return made


@pytest.mark.parametrize("tracker", [WeightsAndBiases(), MLflow()], ids=lambda t: type(t).__name__)
def test_a_continued_training_is_one_run_of_the_tracker(tracker, service, tmp_path):
    lines = []
    tracker.check()
    for start, error in ((0, Stopped("", 2)), (2, ValueError()), (2, None)):
        try:
            with (
                tracking(tracker, tmp_path, SETTINGS, lines.append) as follow,
                Metrics(tmp_path, start, follow=follow) as metrics,
            ):
                for step in (start + 1, start + 2):
                    metrics.write(step, {"train/loss": step / 2})
                if error:
                    raise error
        except type(error):
            pass
        (run,) = service.ends
        assert service.ends[run] == ("FAILED" if type(error) is ValueError else "FINISHED")
    assert service.metrics == {run: [(s, "train/loss", s / 2) for s in (1, 2, 3, 4, 3, 4)]}
    assert service.settings == {run: PLAIN} and service.made[run] == tmp_path.name
    assert json.loads((tmp_path / RUN).read_text())["run"] == run and lines == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"run": 3}', b'{"tracker": "MLflow"}', None]
)
def test_a_run_is_new_where_the_file_tells_none_of_this_tracker(content, service, tmp_path):
    other = json.dumps({"tracker": "Other", "run": "x"}).encode()
    (tmp_path / RUN).write_bytes(other if content is None else content)
    with tracking(MLflow(), tmp_path, SETTINGS, pytest.fail):
        pass
    (run,) = service.ends
    assert json.loads((tmp_path / RUN).read_text()) == {"tracker": "MLflow", "run": run}


@dataclass(frozen=True)
class Failing(Tracker):
    where: str = ""

    def begin(self, workdir, settings, known):
        if self.where == "begin":
            raise ConnectionError("no server\nat all")
        return _Failing(self.where)


class _Failing(TrackedRun):
    id = "x"
    hanging = None

    def __init__(self, where):
        self.where = where

    def log(self, step, values):
        if self.where == "hang":
            self.hanging.wait(60)
        if self.where == "log":
            raise TimeoutError("no answer")

    def close(self, failed):
        if self.where == "close":
            raise ValueError


@pytest.mark.parametrize(
    "where, said",
    [
        ("begin", "no server at all"),
        ("log", "no answer"),
        ("close", "ValueError"),
        ("hang", "some metrics were not sent in time"),
    ],
)
def test_a_tracker_that_fails_or_hangs_is_one_line_and_no_number_is_lost(
    where, said, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    monkeypatch.setattr(_Failing, "hanging", threading.Event())
    lines = []
    with (
        tracking(Failing(where), tmp_path, SETTINGS, lines.append) as follow,
        Metrics(tmp_path, 0, follow=follow) as metrics,
    ):
        for step in (1, 2, 3):
            metrics.write(step, {"a": 1.0})
    _Failing.hanging.set()
    (line,) = lines
    assert line.startswith(f"train.tracker Failing: {said}")
    assert len(read_metric(tmp_path, "a")) == 3


def test_only_the_first_process_tracks(tmp_path, monkeypatch):
    base = smoke.get_config()
    experiment = replace(base, train=replace(base.train, tracker=Failing("begin")))
    lines = []
    for first in (True, False):
        monkeypatch.setattr(trainer, "is_first", lambda first=first: first)
        with trainer._metrics(experiment, tmp_path, 0, lines.append) as metrics:
            metrics.write(1, {"a": 1.0})
        assert len(lines) == 1 and len(read_metric(tmp_path, "a")) == 1


@pytest.mark.parametrize("name, package", [("WeightsAndBiases", "wandb"), ("MLflow", "mlflow")])
def test_a_package_that_is_not_installed_is_one_line_before_anything(
    name, package, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, package, None)
    options = ["--workdir", str(tmp_path / "run"), "--set", f"train.tracker={name}"]
    assert cli.guarded("train", ["--config", "configs/smoke.py", *options]) == 2
    line = f"train.tracker = {name}: needs the package {package}; pip install {package}"
    assert capsys.readouterr().err == f"error: {line}\n"
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_may_go_on_with_another_tracker_and_one_of_before_trackers_is_read():
    base = load("configs/smoke.py")
    other = override(base, ["train.tracker=MLflow", "train.tracker.experiment=mine"])
    assert other.train.tracker == MLflow(experiment="mine")
    assert differences(base, other) == {}
    stored = encode(base)
    del stored["train"]["tracker"]
    assert decode(stored) == base
