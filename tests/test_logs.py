"""Logging: silent unless asked, JSON lines with fields, and the words of libraries kept off the screen."""

import json
import logging
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fulldeck.logs import collect, on_standard_error, tree
from fulldeck.pipeline.run import run
from fulldeck.watchers import run_log

Captured = pytest.CaptureFixture[str]
QUICK: dict[str, Any] = {"epochs": 2, "threads": 1, "device": "cpu"}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_have_time_level_logger_message_and_fields(capsys: Captured) -> None:
    with on_standard_error(as_json=True, quiet=False):
        tree.getChild("training").info("step %d", 3, extra={"step": 3, "loss": 0.5})
        try:
            raise OSError("no disk")
        except OSError:
            tree.getChild("serving").exception("failed")
    step, failed = lines(capsys.readouterr().err)
    assert datetime.fromisoformat(step.pop("time")).tzinfo is not None
    said = {"level": "info", "logger": "fulldeck.training", "message": "step 3", "step": 3, "loss": 0.5}
    assert step == said
    assert failed["level"] == "error"
    assert failed["exception"].endswith("OSError: no disk")


@pytest.mark.parametrize(
    ("as_json", "quiet", "heard"),
    [
        (False, False, {"own warning", "own error", "library error"}),
        (False, True, {"own error", "library error"}),
        (True, False, {"own info", "own warning", "own error", "library warning", "library error", "warned"}),
        (True, True, {"own error", "library error"}),
    ],
)
def test_what_is_heard(capsys: Captured, as_json: bool, quiet: bool, heard: set[str]) -> None:
    everything = ("own info", "own warning", "own error", "library warning", "library error", "warned")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        collect()
        with on_standard_error(as_json=as_json, quiet=quiet):
            for logger, owner in (
                (tree.getChild("run"), "own"),
                (logging.getLogger("torch.onnx"), "library"),
            ):
                logger.info("%s info", owner)
                logger.warning("%s warning", owner)
                logger.error("%s error", owner)
            warnings.warn("warned", stacklevel=1)
    err = capsys.readouterr().err
    assert {text for text in everything if text in err} == heard
    tree.error("nobody listens any more")
    assert capsys.readouterr().err == ""


def test_a_run_tells_its_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "SECONDS", 0.0)
    caplog.set_level(logging.INFO, logger="fulldeck")
    result = run("breast_cancer", [], out=tmp_path, **QUICK)
    told: list[Any] = caplog.records
    epochs = [record for record in told if hasattr(record, "validation_loss")]
    assert [(record.epoch, record.step) for record in epochs] == [
        (0, result["training"]["steps"] // 2),
        (1, result["training"]["steps"]),
    ]
    steps = [record for record in told if hasattr(record, "samples_per_second")]
    assert all(0 < record.step < record.steps == result["training"]["steps"] for record in steps)
    assert all(record.loss is not None for record in steps)
    assert len(steps) == result["training"]["steps"] - 1
    assert {record.name for record in (*epochs, *steps)} == {"fulldeck.training"}
    (last,) = [record for record in told if getattr(record, "status", None) == "finished"]
    assert last.metrics == result["metrics"]


def test_a_run_that_fails_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="fulldeck")
    with pytest.raises(RuntimeError, match="not finite"):
        run("breast_cancer", [], out=tmp_path, learning_rate=1e30, **QUICK)
    record: Any = caplog.records[-1]
    assert (record.name, record.status) == ("fulldeck.run", "failed")
    assert "not finite" in record.getMessage()
