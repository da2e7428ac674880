"""Diagnoses of trainings in two processes, through the command line that starts them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLANTED = """
import os, time, torch
from torch import nn

def data(width):
    rows, classes = torch.randn(72, width), torch.arange(72) % 2
    return {"train": (rows[:64], classes[:64]), "test": (rows[64:], classes[64:])}

def wide():  # many weights and few rows: what is exchanged is more than what is computed
    return {"model": lambda: nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(6)), nn.Linear(1024, 2)),
            "data": data(1024), "loss": nn.functional.cross_entropy}

class Late(nn.Module):
    def forward(self, x):
        time.sleep(0.02 * int(os.environ.get("RANK", 0)))
        return x

def late():
    return {"model": lambda: nn.Sequential(nn.Linear(256, 256), Late(), nn.Linear(256, 2)),
            "data": data(256), "loss": nn.functional.cross_entropy}
"""


def diagnosed(folder: Path, factory: str) -> dict[str, Any]:
    (folder / "planted.py").write_text(PLANTED)
    (folder / "two.yaml").write_text(
        f'workload: {{kind: python, factory: "planted:{factory}"}}\n'
        "train: {batch_size: 4, device: cpu}\ninstructions: []\ndistributed: {backend: gloo}\n"
    )
    command = [sys.executable, "-m", "fulldeck", "diagnose", "two.yaml", "--nproc", "2", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_training_that_exchanges_more_than_it_computes_is_communication_bound(tmp_path: Path) -> None:
    found = diagnosed(tmp_path, "wide")
    assert found["bottleneck"]["class"] == "communication"
    assert "exchanging gradients" in found["bottleneck"]["sentence"]
    assert len(found["ranks"]["computing_ms"]) == 2
    assert (tmp_path / "diagnosis" / "diagnosis.html").exists()


@pytest.mark.slow
def test_the_process_that_the_other_waits_for_is_named(tmp_path: Path) -> None:
    found = diagnosed(tmp_path, "late")
    (sentence,) = [one["sentence"] for one in found["beside"] if one["class"] == "straggler"]
    assert sentence.startswith("Rank 1 computes ")


def test_what_looks_at_one_process_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fulldeck", "diagnose", "digits", "--nproc", "2", "--verify"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--nproc goes with a RECIPE alone" in done.stderr
