"""A real training in a process of its own that goes on until it is ended, and its live page."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fulldeck.monitoring.training import LIVE, Follower

from .servers import eventually

RECIPE = """\
workload: breast_cancer
train: {epochs: 100000, threads: 1, device: cpu}
instructions:
  - leakage_safe_splitting
  - performance_dashboard
"""


@dataclass
class Training:
    """A run that goes on."""

    process: subprocess.Popen[bytes]
    folder: Path


@contextlib.contextmanager
def training(out: Path) -> Iterator[Training]:
    """Begin one below `out`; it is at its steps when the block begins, and ended with it."""
    recipe = out / "cells.yaml"
    recipe.write_text(RECIPE)
    runs = out / "runs"
    command = [sys.executable, "-m", "fulldeck", "run", str(recipe), "--out", str(runs), "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: (runs / "latest" / LIVE).is_file(), 120)
            folder = (runs / "latest").resolve()
            follower = Follower(folder)
            eventually(lambda: any(moment.moved for moment in follower.read()), 60)
            yield Training(process, folder)
        finally:
            process.kill()


@contextlib.contextmanager
def live_page(run: Path) -> Iterator[str]:
    """The URL of the run's live page, as `fulldeck dashboard RUN --live` serves it."""
    command = [sys.executable, "-m", "fulldeck", "dashboard", str(run), "--live", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()
            assert process.wait(30) == 0
