"""TensorBoard reads back what a run wrote."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from fulldeck.watchers.tracking import Tracking


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def steps(accumulator: EventAccumulator, name: str) -> list[int]:
    return [event.step for event in accumulator.Scalars(name)]


def test_curves_figures_and_parameters_are_there(tracked: Any) -> None:
    result = tracked.whole("tensorboard")
    read = events(Path(result["run"]) / "tensorboard")
    assert steps(read, "train/loss") == list(tracked.steps)
    for name in (
        "train/loss_epoch",
        "train/learning_rate",
        "validation/accuracy",
        "time_ms/forward",
        "epoch",
    ):
        assert steps(read, name) == list(tracked.ends)
    history = [values["validation_accuracy"] for values in result["training"]["history"]]
    assert [event.value for event in read.Scalars("validation/accuracy")] == pytest.approx(history)
    (final,) = read.Scalars("final/test/accuracy")
    assert final.value == pytest.approx(result["metrics"]["test"]["accuracy"])
    start, end = (
        plugin_data_pb2.HParamsPluginData.FromString(read.summary_metadata[tag].plugin_data.content)
        for tag in ("_hparams_/session_start_info", "_hparams_/session_end_info")
    )
    parameters = start.session_start_info.hparams
    assert parameters["train.epochs"].number_value == tracked.epochs
    assert parameters["lr_scheduler.kind"].string_value == "linear"
    assert end.session_end_info.status == 1  # success


def test_a_resumed_run_goes_on_and_has_each_step_once(tracked: Any) -> None:
    result = tracked.in_two_parts("tensorboard")
    read = events(Path(result["run"]) / "tensorboard")
    assert steps(read, "train/loss") == list(tracked.steps)
    assert steps(read, "validation/accuracy") == list(tracked.ends)


def test_nothing_is_held_back(tracked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was logged can be read at once: it is not lost if the process is killed."""
    seen = []
    recorded = Tracking.recorded

    def spy(self: Tracking, values: Any) -> None:
        recorded(self, values)
        (folder,) = (tracked.folder / "runs").glob("2*")
        seen.append(steps(events(folder / "tensorboard"), "train/loss")[-1])

    monkeypatch.setattr(Tracking, "recorded", spy)
    tracked.whole("tensorboard")
    assert seen == list(tracked.ends)


def test_another_folder_can_be_named(tracked: Any, tmp_path: Path) -> None:
    result = tracked.whole(f"tensorboard: {{folder: {tmp_path / 'board'}}}")
    name = Path(result["run"]).name
    assert steps(events(tmp_path / "board" / name), "epoch") == list(tracked.ends)
