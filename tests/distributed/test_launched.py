"""`fulldeck run --nproc 2`: a process that is lost, and a launcher that is told to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

RECIPE = """
workload: breast_cancer
train: {epochs: 40, batch_size: 64, device: cpu, threads: 1}
distributed: {}
instructions:
  - fault_tolerant_checkpointing: {every_steps: 4}
"""
pytestmark = pytest.mark.slow


def start(recipe: Path, runs: Path, *more: str) -> subprocess.Popen[str]:
    words = ["run", str(recipe), "--nproc", "2", "--out", str(runs), "--json", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "fulldeck", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoint(process: subprocess.Popen[str], runs: Path) -> None:
    while not list(runs.glob("*/checkpoints/*/manifest.json")):
        assert process.poll() is None
        time.sleep(0.02)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_is_killed_and_the_run_ends_as_if_it_had_not_been(
    recipe: Path, tmp_path: Path, victim: int
) -> None:
    undisturbed = start(recipe, tmp_path / "undisturbed")
    expected = json.loads(undisturbed.communicate(timeout=200)[0])
    process = start(recipe, tmp_path / "disturbed")
    wait_for_checkpoint(process, tmp_path / "disturbed")
    ranks = [
        one
        for one in psutil.Process(process.pid).children(recursive=True)
        if one.environ().get("RANK") == str(victim)
    ]
    ranks[0].kill()
    said, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert (
        f"rank {victim} was killed by SIGKILL; going on from the last checkpoint (restart 1 of 3)" in errors
    )
    assert "Traceback" not in errors
    result = json.loads(said)  # one document, though a rank has failed in between
    assert result["training"]["history"] == expected["training"]["history"]
    one, other = (
        load_file(Path(found["run"]) / "artifacts" / "model.safetensors") for found in (expected, result)
    )
    assert all((one[name] == other[name]).all() for name in one)


def test_lost_too_often_it_says_how_to_go_on(recipe: Path, tmp_path: Path) -> None:
    process = start(recipe, tmp_path / "runs", "--restarts", "0")
    wait_for_checkpoint(process, tmp_path / "runs")
    psutil.Process(process.pid).children(recursive=True)[-1].kill()
    said, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    assert json.loads(said)["error"].endswith("was killed by SIGKILL; go on with --resume")
    assert "Traceback" not in errors


def test_told_to_end_it_keeps_what_it_has(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace("every_steps: 4", "every_steps: 4"))
    process = start(recipe, tmp_path / "runs", "--set", "train.epochs=3000")
    wait_for_checkpoint(process, tmp_path / "runs")
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=100)
    assert process.returncode not in (0, None)
    (run,) = (path for path in (tmp_path / "runs").iterdir() if not path.is_symlink())
    kept = max(
        int(path.parent.name.removeprefix("step-")) for path in run.glob("checkpoints/*/manifest.json")
    )
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert f"the state after step {kept} is kept" in result["error"]
