"""A job of torchrun, killed and started anew under the same id with another number of processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

EPOCHS = 60
RECIPE = f"""
workload: breast_cancer
train: {{epochs: {EPOCHS}, batch_size: 64, device: cpu, threads: 1}}
distributed: {{}}
instructions:
  - fault_tolerant_checkpointing: {{every_steps: 4}}
"""


def torchrun(processes: int, recipe: Path, runs: Path) -> list[str]:
    meeting = ["--rdzv-id", "job-7", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1"]
    work = ["-m", "fulldeck", "run", str(recipe), "--out", str(runs), "--json"]
    return [*agent, "--nproc-per-node", str(processes), *meeting, *work]


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """The agent and its processes, which are of another session."""
    agent = psutil.Process(process.pid)
    for one in [agent, *agent.children(recursive=True)]:
        one.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_it_goes_on_with_another_number_of_processes(tmp_path: Path, before: int, after: int) -> None:
    recipe, runs = tmp_path / "job.yaml", tmp_path / "runs"
    recipe.write_text(RECIPE)
    process = subprocess.Popen(
        torchrun(before, recipe, runs), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while not list(runs.glob("*/checkpoints/*/manifest.json")):
        assert process.poll() is None
        time.sleep(0.02)
    kill_all(process)
    (run,) = (path for path in runs.iterdir() if not path.is_symlink())
    assert json.loads((run / "result.json").read_text())["status"] == "running"
    done = subprocess.run(
        torchrun(after, recipe, runs), capture_output=True, text=True, timeout=200, check=True
    )
    result = json.loads(done.stdout)
    assert Path(result["run"]) == run
    assert result["training"]["epochs"] == EPOCHS
    assert result["training"]["steps"] % EPOCHS == 0
    epochs = [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(EPOCHS))
    assert result["metrics"]["test"]["accuracy"] > 0.9
