"""Weights & Biases: its offline file holds what a run wrote."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from fulldeck.errors import BadInput
from fulldeck.pipeline.run import run


def records(file: Path) -> Iterator[Record]:
    """The records of a .wandb file: LevelDB's log format, in blocks of 32 KiB, after a header of 7 bytes."""
    data, position, parts = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield Record.FromString(parts)
            parts = b""


def closed(file: Path) -> list[Record]:
    """All records: wandb's service writes the last ones just after a run's `finish` has returned."""
    for _ in range(200):
        if (found := list(records(file))) and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.05)
    raise AssertionError(f"{file} was not closed")


def read(folder: Path) -> tuple[list[Any], list[dict[str, Any]], dict[str, Any]]:
    """Run records, history rows and the summary of all offline files below `folder`, oldest first."""
    runs, rows, summary = [], [], {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in closed(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                runs.append(record.run)
            elif kind == "history":
                items = record.history.item
                rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
            elif kind == "summary":
                items = record.summary.update
                summary |= {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
    return runs, rows, summary


def test_curves_figures_and_parameters_are_there(tracked: Any) -> None:
    result = tracked.whole("wandb: {project: cancer}")
    folder = Path(result["run"])
    runs, rows, summary = read(folder)
    assert (runs[0].display_name, runs[0].project) == (folder.name, "cancer")
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert (config["train.epochs"], config["lr_scheduler.kind"]) == (tracked.epochs, "linear")
    assert [row["_step"] for row in rows] == list(tracked.steps)
    assert all("train/loss" in row for row in rows)
    history = [values["validation_loss"] for values in result["training"]["history"]]
    assert [row["validation/loss"] for row in rows if "validation/loss" in row] == history
    assert summary["final/test/accuracy"] == result["metrics"]["test"]["accuracy"]


def test_a_resumed_run_goes_on_and_has_each_step_once(tracked: Any) -> None:
    result = tracked.in_two_parts("wandb")
    runs, rows, _ = read(Path(result["run"]))
    assert len({run.run_id for run in runs}) == 1
    assert [row["_step"] for row in rows] == list(tracked.steps)


def test_online_without_a_key_is_refused_before_the_run(
    tracked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    recipe = tracked.recipe("wandb: {mode: online}")
    with pytest.raises(BadInput, match="no API key for mode: online; type wandb login"):
        run(recipe, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
