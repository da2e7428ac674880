"""MLflow's client reads back what a run wrote: into a database, into a folder, and from two parts."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from fulldeck.trackers.mlflow import Mlflow


def only_run(uri: str, experiment: str) -> tuple[Any, Any]:
    """The client, and the one run of the experiment."""
    Mlflow(uri=uri).check()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return client, run


@pytest.mark.parametrize("place", ["sqlite:///{}/mlflow.db", "{}/mlruns"])
def test_curves_figures_and_parameters_are_there(tracked: Any, tmp_path: Path, place: str) -> None:
    uri = place.format(tmp_path)
    result = tracked.whole(f"mlflow: {{experiment: cancer, uri: '{uri}'}}")
    client, run = only_run(uri, "cancer")
    assert run.info.run_name == Path(result["run"]).name
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == str(tracked.epochs)
    assert run.data.params["lr_scheduler.kind"] == "linear"
    assert run.data.metrics["final/test/accuracy"] == result["metrics"]["test"]["accuracy"]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")] == list(
        tracked.steps
    )
    history = [values["validation_loss"] for values in result["training"]["history"]]
    logged = client.get_metric_history(run.info.run_id, "validation/loss")
    assert [metric.value for metric in logged] == history


def test_a_resumed_run_goes_on_and_has_each_step_once(tracked: Any, tmp_path: Path) -> None:
    tracked.in_two_parts(f"mlflow: {{uri: {tmp_path / 'mlruns'}}}")
    client, run = only_run(str(tmp_path / "mlruns"), "fulldeck")
    assert run.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")] == list(
        tracked.steps
    )


def test_a_server_that_is_not_there_is_a_note(tracked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as taken:  # bound and not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        result = tracked.whole(f"mlflow: {{uri: 'http://127.0.0.1:{taken.getsockname()[1]}'}}")
    assert result["status"] == "finished"
    (note,) = [note for note in result["notes"] if "mlflow" in note]
    assert note.startswith("tracker mlflow failed and is left out from here on: ")
    assert "\n" not in note
