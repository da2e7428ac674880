"""One of two ranks is lost, or does other work: the other stops within the time-out, and says who and why."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from fulldeck.distributed.process_group import join, joined, pick_backend
from fulldeck.distributed.together import Together
from fulldeck.errors import BadInput
from fulldeck.training.loader import IterableLoader
from fulldeck.training.rank_share import own_rows, shares


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("faults")
    subprocess.run(
        [sys.executable, "-m", "tests.distributed.faults_process", str(folder)],
        check=True,
        cwd=Path(__file__).parents[2],
        timeout=200,
    )
    result: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return result


@pytest.mark.parametrize(("fault", "fate"), [("killed", "has ended"), ("stopped", "is stopped")])
def test_a_lost_rank_is_named(found: dict[str, Any], fault: str, fate: str) -> None:
    first, _, (_, process) = found[fault]
    assert first["kind"] == "LostRank"
    where = f"rank 1 (process {process} on {socket.gethostname()})"
    assert first["words"] == f"{where} {fate}; the others stopped"


def test_a_rank_that_fails_leaves_its_reason(found: dict[str, Any]) -> None:
    first, second, _ = found["failed"]
    assert first["words"].endswith("ended: its disk is full")
    assert second["kind"] == "BadInput"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            "another recipe",
            "rank 1 has another recipe than rank 0, which is here: train.epochs: 4 there, 3 here",
        ),
        ("another version", "rank 1 has another version of fulldeck than rank 0: 0.0.1 (code "),
        ("other data", "rank 1 has other train data than rank 0: 48 examples"),
        ("another model", "rank 1 has another model (weight) than rank 0: 3 x 4 there, 2 x 4 at rank 0"),
    ],
)
def test_other_work_is_refused_by_all_and_told_by_one(found: dict[str, Any], fault: str, words: str) -> None:
    first, second, _ = found[fault]
    assert first["kind"] == "BadInput"
    assert words in first["words"]
    assert second["kind"] == "SaidElsewhere"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")


def test_a_taken_port_is_refused(launched: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BadInput, match=f"{place}, where the processes meet, is taken"):
            join(Together(init_method=place, timeout_seconds=2), "cpu")


def test_processes_that_nothing_brings_together_are_refused(launched: None) -> None:
    with pytest.raises(BadInput, match="one of 2 processes"), joined(None, "cpu"):
        pass


def test_a_backend_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInput, match="built without the backend mpi; write backend: auto, or gloo"):
        pick_backend("mpi", "cpu")
    assert pick_backend("auto", "cpu") == "gloo"


def test_a_loader_that_shares_out_by_itself_is_refused() -> None:
    import torch

    data = TensorDataset(torch.zeros(4, 2), torch.zeros(4))
    sampler: Any = DistributedSampler(data, num_replicas=2, rank=0)
    loader = IterableLoader(DataLoader(data, sampler=sampler))
    with pytest.raises(BadInput, match="DistributedSampler"):
        next(shares(loader, rank=0, world_size=2))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_every_row_is_one_rank_s_own(world_size: int) -> None:
    for count in range(12):
        rows = [row for rank in range(world_size) for row in range(count)[own_rows(count, rank, world_size)]]
        assert rows == list(range(count))


def test_more_ranks_than_rows() -> None:
    import torch

    batches = [(torch.arange(2.0)[:, None], torch.arange(2))]
    loader = IterableLoader(batches)
    each = [next(shares(loader, rank=rank, world_size=3)) for rank in range(3)]
    assert [batch.targets.tolist() for batch in each if not batch.idle] == [[0], [1]]
    assert sum(batch.idle for batch in each) == 1
    assert os.environ.get("WORLD_SIZE") is None
