"""A small sample of `make torture` on a server; the rest of the sample is slow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "torture_serving.py"


def torture(output: Path, *parts: str) -> dict[str, Any]:
    words = [str(BENCHMARK), "--sample", *(word for part in parts for word in ("--only", part))]
    ended = subprocess.run(
        [sys.executable, *words, "--output", str(output)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def test_reloads_damage_and_poison(tmp_path: Path) -> None:
    found = torture(tmp_path / "found.json", "reload", "malformed", "packages", "pickle", "archives")
    assert set(found["reload"]["statuses"]) == {"200"}
    assert found["reload"]["reloads"] > 0
    assert found["malformed"]["alive"]
    assert found["packages"]["let_through"] == []
    assert not found["pickle"]["executed"]
    assert found["archives"]["nothing_written"]


@pytest.mark.slow
def test_kills_slow_clients_huge_bodies_overload_and_a_soak(tmp_path: Path) -> None:
    found = torture(tmp_path / "found.json", "kills", "loris", "body", "overload", "soak")
    assert set(found["kills"]["statuses"]) <= {"200", "503"}
    assert found["loris"]["held_after_5_s"] == 0
    assert set(found["overload"]["overload"]["wrong"]) == {"429"}
