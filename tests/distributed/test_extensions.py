"""Why 53 and 54 are refused beside 22 and 26: what they come to in two processes, past the plan."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("extensions")
    subprocess.run(
        [sys.executable, "-m", "tests.distributed.extensions_process", str(folder)],
        check=True,
        cwd=Path(__file__).parents[2],
        timeout=200,
    )
    result: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return result


@pytest.mark.parametrize("extension", ["private", "marked"])
def test_replicas_drift_apart(found: dict[str, Any], extension: str) -> None:
    """Each process has noise, or a key, of its own, and adds it when gradients have been exchanged."""
    first, second = found[f"{extension}, replicas"]
    assert first["weights"] != second["weights"]


@pytest.mark.parametrize("extension", ["private", "marked"])
def test_shares_of_a_layer_are_not_that_layer(found: dict[str, Any], extension: str) -> None:
    assert all("error" in one for one in found[f"{extension}, shards"])
