"""Planted instructions, in a plugin that arms in processes of their own find too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fulldeck.catalogue import catalogue

PLUGIN = '''"""Planted effects."""

from __future__ import annotations

import time
from typing import Any

from fulldeck.instruction import Evidence, Instruction, instruction, param


@instruction(190, stage="training", evidence=Evidence(workload="breast_cancer", metric="step_time", expect="<= 1.05x"))
class PlantedDelay(Instruction):
    """Burn processor time in each step."""

    milliseconds: float = param(0.0, ge=0, doc="How long.")

    def attach(self, loop: Any) -> None:
        def burn(batch: Any) -> None:
            end = time.perf_counter() + self.milliseconds / 1000
            while time.perf_counter() < end:
                pass

        loop.on("batch_start", burn)


@instruction(192, stage="training", evidence=Evidence(workload="breast_cancer", metric="step_time", expect="<= 1.05x"))
class PlantedFailure(Instruction):
    """Fail in the first step."""

    def attach(self, loop: Any) -> None:
        def fail(batch: Any) -> None:
            raise ZeroDivisionError("planted")

        loop.on("batch_start", fail)


@instruction(193, stage="training", evidence=Evidence(workload="breast_cancer", metric="step_time", expect="<= 1.05x"))
class PlantedDivergence(Instruction):
    """Train on the negative of the loss."""

    def attach(self, loop: Any) -> None:
        loop.on("after_forward", lambda part: part.terms.append(-3 * part.loss))
'''


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Instructions planted_delay, planted_failure and planted_divergence."""
    folder = tmp_path / "plugin"
    info = folder / "planted-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "planted.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    names = {"planted_delay": "PlantedDelay", "planted_failure": "PlantedFailure"}
    names |= {"planted_divergence": "PlantedDivergence"}
    points = "".join(f"{name} = planted:{cls}\n" for name, cls in names.items())
    (info / "entry_points.txt").write_text(f"[fulldeck.instructions]\n{points}")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    catalogue.cache_clear()
    yield
    sys.modules.pop("planted", None)
    catalogue.cache_clear()
