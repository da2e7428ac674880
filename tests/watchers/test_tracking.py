"""Trackers in a recipe: what is refused, what fails in mid-run, what is not imported."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fulldeck.errors import BadInput
from fulldeck.pipeline.run import run
from fulldeck.recipe.reader import read_recipe
from fulldeck.watchers.tracking import final_figures, flat_parameters, points_of
from fulldeck.watchers.watcher import Watcher

HEAD = "workload: breast_cancer\ntrain: {epochs: 2, threads: 1}\ninstructions: [leakage_safe_splitting]\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(HEAD + text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trackers: [tensorbord]", 'unknown tracker "tensorbord"; did you mean tensorboard?'),
        (
            "trackers:\n  - tensorboard\n  - mlflow: {experimnt: x}",
            'unknown parameter "experimnt" of tracker mlflow; did you mean experiment?',
        ),
        ("trackers: [{wandb: {mode: ofline}}]", "tracker wandb.mode must be one of 'offline' or 'online'"),
        ("trackers: [wandb, wandb]", "tracker wandb may stand only once"),
        ("trackers: {wandb: {}}", "trackers must be a list: begin each with a dash"),
        ("trackers: [{wandb: {}, mlflow: {}}]", "a tracker is a name, or one name with its parameters"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(recipe: Callable[[str], Path], text: str, said: str) -> None:
    path = recipe(text)
    with pytest.raises(BadInput) as refused:
        read_recipe(path)
    (line,) = str(refused.value).splitlines()
    assert said in line
    assert line.endswith(f"({path}:{6 if 'experimnt' in text else 4})")


def test_they_travel_with_the_resolved_recipe(recipe: Callable[[str], Path], tmp_path: Path) -> None:
    made = read_recipe(recipe("trackers: [tensorboard, {mlflow: {uri: ./mlruns}}]"))
    again = tmp_path / "again.yaml"
    again.write_text(made.to_yaml())
    assert read_recipe(again).trackers == made.trackers


def test_a_library_that_is_missing_stops_before_the_run(
    recipe: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(BadInput) as refused:
        run(recipe("trackers: [wandb]"), out=tmp_path / "runs")
    assert str(refused.value) == 'wandb is not installed: pip install "fulldeck[wandb]"'
    assert not (tmp_path / "runs").exists()


class Breaks(Watcher):
    """Takes the tracker's file away after the first epoch, and hears what is said about it."""

    def __init__(self, board: Path) -> None:
        self.board = board
        self.notes: list[str] = []

    def recorded(self, values: Mapping[str, Any]) -> None:
        if values["epoch"] == 0:
            (self.board / "mlruns").rename(self.board / "gone")
            (self.board / "mlruns").write_text("not a folder")

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_one_that_fails_in_mid_run_is_a_note_and_training_goes_on(
    recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    watcher = Breaks(tmp_path)
    result = run(
        recipe(f"trackers: [tensorboard, {{mlflow: {{uri: {tmp_path / 'mlruns'}}}}}]"),
        out=tmp_path / "runs",
        watcher=watcher,
    )
    assert result["status"] == "finished"
    (note,) = [note for note in watcher.notes if note.startswith("tracker ")]
    assert note.startswith("tracker mlflow failed and is left out from here on: ")
    assert note.endswith("(metrics.jsonl has everything)")
    assert note in result["notes"]
    assert any((Path(result["run"]) / "tensorboard").iterdir()), "the others are not disturbed"


def test_a_run_that_cannot_begin_leaves_no_trace(recipe: Callable[[str], Path], tmp_path: Path) -> None:
    path = recipe(f"trackers: [{{mlflow: {{uri: {tmp_path / 'mlruns'}}}}}]")
    path.write_text(path.read_text().replace("breast_cancer", "{kind: table, path: none.csv, target: x}"))
    with pytest.raises(BadInput):
        run(path, out=tmp_path / "runs")
    assert not (tmp_path / "mlruns").exists()


def test_none_is_imported_unless_named_and_nothing_is_said_unasked(
    recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    code = (
        "import sys; from fulldeck.pipeline.run import run\n"
        f"run({str(recipe(''))!r}, out={str(tmp_path / 'runs')!r})\n"
        "print(sorted({'tensorboard', 'mlflow', 'wandb'} & set(sys.modules)))\n"
        "import logging; logging.getLogger('fulldeck.run').error('x')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_steps_stand_at_the_end_of_the_steps_they_are_the_mean_of() -> None:
    values = {
        "epoch": 1,
        "step": 13,
        "lr": 0.1,
        "loss": 2.0,
        "validation_accuracy": 0.5,
        "phases_ms": {"forward": 3.0},
        "losses": [3.0, 2.0, 1.0],
        "losses_every": 3,
    }
    *before, last = points_of(values, done=5)
    assert before == [(8, {"train/loss": 3.0}), (11, {"train/loss": 2.0})]
    assert last == (
        13,
        {
            "train/loss": 1.0,
            "train/loss_epoch": 2.0,
            "train/learning_rate": 0.1,
            "epoch": 1.0,
            "validation/accuracy": 0.5,
            "time_ms/forward": 3.0,
        },
    )


def test_names_of_parameters_and_final_figures() -> None:
    resolved = {
        "workload": {"kind": "table", "path": "a.csv"},
        "train": {"epochs": 3},
        "instructions": ["onnx_export", {"lr_scheduler": {"kind": "linear"}}, "onnx_export"],
        "trackers": ["wandb"],
    }
    assert flat_parameters(resolved) == {
        "workload.kind": "table",
        "workload.path": "a.csv",
        "train.epochs": 3,
        "onnx_export": True,
        "lr_scheduler.kind": "linear",
        "onnx_export.2": True,
    }
    result = {
        "metrics": {"test": {"accuracy": 0.9}},
        "rehearsal": {"latency_ms": {"p50": 1.0}},
        "artifacts": [{"path": "artifacts/model.onnx", "bytes": 7}],
    }
    assert final_figures(result) == {
        "final/test/accuracy": 0.9,
        "final/latency_ms/p50": 1.0,
        "artifacts/model.onnx/bytes": 7,
    }
