"""Recipes to tune, on workloads that train in a moment."""

from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a recipe for a function of workloads_to_tune.py."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)

    def make(factory: str = "clouds", more: str = "", epochs: int = 9) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(
            f"workload: {{kind: python, factory: 'workloads_to_tune:{factory}', path: '{HERE}'}}\n"
            f"train: {{epochs: {epochs}, batch_size: 32, learning_rate: 0.002, threads: 1, device: cpu}}\n"
            f"instructions:\n  - leakage_safe_splitting: {{validation: 0.2, test: 0.2}}\n{more}"
        )
        return path

    return make
