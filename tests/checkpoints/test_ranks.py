"""Two processes keep one training: each writes its part, and any number of them reads what any other wrote.

One process imports torch and forks; all cases run in it, and leave their findings in a file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "ranks_process.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, str(SCRIPT), str(folder)], check=True, timeout=120)
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("rank0", "rank1")}


KINDS = ("alone", "replicas", "shards")


@pytest.mark.parametrize("wrote", KINDS)
@pytest.mark.parametrize("reads", KINDS)
@pytest.mark.parametrize("store", ["folder", "last"])
def test_one_process_replicas_and_shards_read_each_other(
    found: dict[str, Any], wrote: str, reads: str, store: str
) -> None:
    assert found["rank0"][f"{store} {wrote} to {reads}"] == "equal"


def test_each_rank_writes_its_own_shard(found: dict[str, Any]) -> None:
    alone, replicas, shards = (found["rank0"][f"bytes {kind}"] for kind in KINDS)
    assert len(alone) == 1
    for spread in (replicas, shards):
        assert len(spread) == 2
        assert max(spread) < 0.75 * alone[0]


def test_each_rank_goes_on_with_its_own_random_state(found: dict[str, Any]) -> None:
    for rank in ("rank0", "rank1"):
        before, after = found[rank]["random"]
        assert before == after
    assert found["rank0"]["random"] != found["rank1"]["random"]


def test_one_rank_that_wants_to_end_ends_all_after_the_same_step(found: dict[str, Any]) -> None:
    assert found["rank0"]["ended"] == found["rank1"]["ended"]
    assert found["rank0"]["ended"].startswith("SIGTERM: the state after step ")


def test_what_one_rank_cannot_write_is_refused_on_all(found: dict[str, Any]) -> None:
    for rank in ("rank0", "rank1"):
        assert "cannot write" in found[rank]["refused"]
        assert found[rank]["kept after"] == 1


def test_a_held_folder_is_refused_on_all(found: dict[str, Any]) -> None:
    assert "another training keeps its checkpoints in" in found["rank1"]["held"]
