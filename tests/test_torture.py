"""A small sample of `make torture`: runs killed at random points lose nothing and leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "torture.py"


def test_nothing_is_lost_different_or_left_behind(tmp_path: Path) -> None:
    output = tmp_path / "torture.json"
    words = [str(BENCHMARK), "--points", "4", "--rank-points", "2", "--seed", "7", "--output", str(output)]
    ended = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads(output.read_text())
    for tally, points in ((result["one_process"], 4), (result["two_processes"], 2)):
        assert tally["points"] == points
        assert tally["killed_in_time"] + tally["killed_between_file_operations"] > 0
        assert (tally["lost"], tally["different"], tally["stray"]) == (0, 0, 0), tally["cases"]
