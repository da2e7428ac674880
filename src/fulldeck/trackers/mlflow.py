"""MLflow: a run in an experiment, in a local database or on a server.

See them with: mlflow ui
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fulldeck.param import param
from fulldeck.trackers.tracker import Parameters, Point, TrackedRun, Tracker

METRICS, PARAMS, LETTERS = 1000, 100, 6000
"""Metrics and parameters in one request, and letters of a parameter: the most that MLflow takes."""
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class Mlflow(Tracker):
    kind: ClassVar[str] = "mlflow"

    experiment: str = param("fulldeck", doc="Experiment that the run belongs to; made if it is not there.")
    uri: str = param(
        "sqlite:///mlflow.db",
        doc="Where the figures go: sqlite:///FILE, a folder such as ./mlruns, or http://HOST:PORT.",
    )

    def check(self) -> None:
        # Read when mlflow is imported. Nothing goes over the network but to `uri`; its log lines go the
        # way of all others; a server that has gone stalls the training for seconds, not for minutes.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        if "://" not in self.uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        super().check()

    def open(self, folder: Path, parameters: Parameters, known: str | None) -> TrackedRun:
        from mlflow.entities import Param, RunTag
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=self.uri)
        if known is not None:
            client.update_run(known, status="RUNNING")
            return _Run(client, known)
        experiment = client.get_experiment_by_name(self.experiment)
        made = experiment.experiment_id if experiment else client.create_experiment(self.experiment)
        run = _Run(client, client.create_run(made, run_name=folder.name).info.run_id)
        params = [Param(name, str(value)[:LETTERS]) for name, value in parameters.items()]
        client.log_batch(run.id, tags=[RunTag("fulldeck.run", str(folder))])
        for start in range(0, len(params), PARAMS):
            client.log_batch(run.id, params=params[start : start + PARAMS])
        return run


class _Run:
    def __init__(self, client: Any, known: str) -> None:
        self.id = known
        self._client = client

    def log(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        metrics = [
            Metric(name, value, now, step) for step, figures in points for name, value in figures.items()
        ]
        for start in range(0, len(metrics), METRICS):
            self._client.log_batch(self.id, metrics=metrics[start : start + METRICS])

    def finish(self, status: str, figures: Mapping[str, float]) -> None:
        self.log([(0, figures)])
        self._client.set_terminated(self.id, STATUS[status])
