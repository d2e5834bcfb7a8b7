"""MLflow Tracking (https://mlflow.org): the extra `mlflow`."""

import time
from dataclasses import dataclass

from experiments.errors import needed
from experiments.trackers.tracker import TrackedRun, Tracker


@dataclass(frozen=True)
class MLflow(Tracker):
    """uri: of the server, or "sqlite:///FILE" for a file without one; "" is $MLFLOW_TRACKING_URI, or
    MLflow's default. experiment: where the run stands. name: of the run; "" is that of the run
    directory."""

    uri: str = ""
    experiment: str = "ddlm"
    name: str = ""

    def check(self):
        needed("mlflow", "train.tracker = MLflow")

    def begin(self, workdir, settings, known):
        import mlflow  # pyright: ignore[reportMissingImports]  # an extra

        client = mlflow.MlflowClient(self.uri or None)
        if known:
            client.update_run(known, status="RUNNING")
            return _Run(client, mlflow.entities.Metric, known)
        found = client.get_experiment_by_name(self.experiment)
        place = found.experiment_id if found else client.create_experiment(self.experiment)
        run = client.create_run(place, run_name=self.name or workdir.resolve().name).info.run_id
        params = [mlflow.entities.Param(name, str(value)) for name, value in settings.items()]
        for first in range(0, len(params), 100):  # as many as a call may have
            client.log_batch(run, params=params[first : first + 100])
        return _Run(client, mlflow.entities.Metric, run)


class _Run(TrackedRun):
    def __init__(self, client, metric, run: str):
        self._client, self._metric, self.id = client, metric, run

    def log(self, step, values):
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self, failed):
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")
