"""What a finished run shows."""

from pathlib import Path
from typing import Any

import pytest

from fulldeck.cli.summary import write_line, write_summary

RESULT: dict[str, Any] = {
    "run": "runs/20261123-141500-digits",
    "metrics": {"test": {"accuracy": 0.99}},
    "instructions": [
        {
            "name": "onnx_export",
            "number": 32,
            "status": "applied",
            "changes": {
                "latency_ms": {"before": 1.0, "after": 0.1},
                "accuracy": {"before": 0.99, "after": 0.99},
                "agreement": {"after": 1.0},
            },
        },
        {
            "name": "amp_optimizer",
            "number": 18,
            "status": "applied",
            "changes": {"low_precision_flops": {"before": 0.0, "after": 1.0}},
        },
        {"name": "amp_optimizer", "number": 18, "status": "skipped", "reason": "no bfloat16", "changes": {}},
    ],
    "artifacts": [{"path": "artifacts/model.onnx", "kind": "onnx", "bytes": 301_000, "precision": "fp32"}],
    "rehearsal": {"requests": 100, "agreement": 1.0, "latency_ms": {"p50": 1.2, "p99": 2.0}},
}


def test_everything_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    write_summary(RESULT)
    shown = capsys.readouterr().out
    for text in (
        "32  onnx_export",
        "latency 1 ms -> 0.1 ms, 10x faster",
        "same predictions 100.00 %",
        "arithmetic in 16 bits 0.00 % -> 100.00 %",
        "skipped: no bfloat16",
        "test: accuracy 99.00 %",
        "artifacts/model.onnx: fp32 onnx, 301 kB",
        "100 requests to a real server, 100.0% equal answers, p50 1.20 ms, p99 2.00 ms",
        "\nfulldeck serve runs/20261123-141500-digits\n",
        "\nfulldeck predict runs/20261123-141500-digits INPUT\n",
    ):
        assert text in shown
    assert "accuracy 99.00 % -> " not in shown, "what did not change is left out"


def test_without_a_package_it_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    write_summary(RESULT | {"rehearsal": None})
    assert "fulldeck show model_packaging" in capsys.readouterr().out


def test_it_names_the_report_if_there_is_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "report.html").touch()
    write_summary(RESULT | {"run": str(tmp_path)})
    *_, named, shown, served, asked = capsys.readouterr().out.splitlines()
    assert named == f"report: {tmp_path}/report.html"
    assert shown == f"fulldeck report {tmp_path} --open"
    assert served == f"fulldeck serve {tmp_path}"
    assert asked == f"fulldeck predict {tmp_path} INPUT"


def test_it_names_an_item_to_ask_with_if_one_was_kept(capsys: pytest.CaptureFixture[str]) -> None:
    write_summary(RESULT | {"rehearsal": {**RESULT["rehearsal"], "example": "example.png"}})
    *_, asked = capsys.readouterr().out.splitlines()
    run = RESULT["run"]
    assert asked == f"fulldeck predict {run} {run}/example.png"


@pytest.mark.parametrize("columns", [40, 80])
def test_it_fits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    write_summary(RESULT)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("fulldeck ")) <= columns


def test_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_line(RESULT)
    assert capsys.readouterr().out == "runs/20261123-141500-digits  test: accuracy 99.00 %\n"
