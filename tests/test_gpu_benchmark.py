"""The benchmark of training on a GPU runs through, small and on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "gpu" / "training.py"


@pytest.mark.slow
def test_every_part_and_every_arm_gives_figures(tmp_path: Path) -> None:
    out = tmp_path / "training.json"
    command = [sys.executable, str(BENCHMARK), "--device", "cpu", "--tiny", "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result = json.loads(out.read_bytes())
    assert not result["left_out"]
    for name, part in result["parts"].items():
        assert "failed" not in part, f"{name}: {part.get('failed')}"
        for arm, figures in part.items():
            assert not isinstance(figures, dict) or "failed" not in figures, f"{name}, {arm}: {figures}"
