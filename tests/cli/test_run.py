"""`fulldeck run`: result as JSON, lines without a terminal, Ctrl-C and going on."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., Any]


def test_json_is_the_result_and_nothing_else(cli: Cli, recipe: Callable[[str], Path], tmp_path: Path) -> None:
    path = recipe("workload: breast_cancer\ninstructions: [leakage_safe_splitting]\n")
    answer = cli("run", path, "--set", "train.epochs=2", "--out", tmp_path / "runs", "--json")
    assert answer.code == 0
    result = answer.json
    assert result["status"] == "finished"
    assert result == json.loads((Path(result["run"]) / "result.json").read_text())
    assert result["training"]["epochs"] == 2
    assert [item["name"] for item in result["instructions"]] == ["leakage_safe_splitting"]
    assert "epoch 2" in answer.err, "progress goes to standard error"


def test_a_finished_run_says_what_it_did(cli: Cli, recipe: Callable[[str], Path], tmp_path: Path) -> None:
    path = recipe("workload: breast_cancer\ntrain: {epochs: 2}\ninstructions: [lr_scheduler]\n")
    answer = cli("run", path, "--out", tmp_path / "runs")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0].startswith(f"recipe in {tmp_path}/runs/2")
    assert sum(line.startswith("  epoch ") for line in lines) == 2
    assert any(line.startswith("08  lr_scheduler") for line in lines)
    assert any(re.match(r"test: accuracy [\d.]+ %$", line) for line in lines)
    assert "\x1b" not in answer.out, "no escape sequences without a terminal"


def test_interrupted_says_how_to_go_on_and_goes_on(
    cli: Cli, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    path = recipe("workload: breast_cancer\ntrain: {epochs: 60, threads: 1}\n")
    out = tmp_path / "runs"
    words = ["run", str(path), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "fulldeck", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("  epoch 3 "):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == f"interrupted; go on with: fulldeck run {path} --out {out} --resume\n"

    answer = cli(*words, "--resume")
    assert answer.code == 0
    assert re.search(r"^  resumed after epoch \d+ \(step \d+ of \d+\)$", answer.out, re.MULTILINE)
    (folder,) = out.glob("2*")
    epochs = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(60)), "each epoch once"
    nothing = cli(*words, "--resume")
    assert nothing.code == 2
    assert "there is no unfinished run" in nothing.err


def test_a_reader_that_leaves_does_not_end_the_run(recipe: Callable[[str], Path], tmp_path: Path) -> None:
    path = recipe("workload: breast_cancer\ntrain: {epochs: 4, threads: 1}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "fulldeck", "run", str(path), "--out", str(tmp_path / "runs")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0
    result = json.loads((tmp_path / "runs/latest/result.json").read_text())
    assert result["status"] == "finished"
    assert (tmp_path / "runs/latest/report.html").is_file()


def test_log_json_is_one_object_a_line_also_for_errors(
    cli: Cli, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    path = recipe("workload: breast_cancer\ntrain: {epochs: 2, threads: 1}\n")
    answer = cli("run", path, "--out", tmp_path / "runs", "--log-json")
    assert answer.code == 0
    lines = [json.loads(line) for line in answer.err.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    assert [line["epoch"] for line in lines if "validation_loss" in line] == [0, 1]
    assert "epoch 1" not in answer.out, "only the summary"
    assert "test: accuracy " in answer.out
    wrong = cli("run", "digitz", "--log-json")
    (line,) = [json.loads(line) for line in wrong.err.splitlines()]
    assert (wrong.code, line["level"], line["exit_code"]) == (2, "error", 2)
    assert 'there is no recipe "digitz"; did you mean digits?' in line["message"]


def test_quiet_writes_one_line(cli: Cli, recipe: Callable[[str], Path], tmp_path: Path) -> None:
    path = recipe("workload: breast_cancer\ntrain: {epochs: 2, threads: 1}\n")
    answer = cli("run", path, "--out", tmp_path / "runs", "--quiet")
    (line,) = answer.out.splitlines()
    assert line.startswith(f"{tmp_path}/runs/2")
    assert "  test: accuracy " in line
    assert answer.err == ""
    wrong = cli("run", "digitz", "--quiet")
    assert wrong.err.startswith("error: there is no recipe")
