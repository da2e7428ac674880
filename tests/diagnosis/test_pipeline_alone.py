"""Padding is what stands at the end of rows of ids, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from fulldeck.diagnosis.pipeline_alone import measure_pipeline, padding
from fulldeck.training.loader import IterableLoader


@pytest.mark.parametrize(
    ("rows", "share", "in_batch"),
    [
        ([[5, 0, 6, 0], [7, 0, 0, 0]], 0.5, 1 / 3),
        ([[5, 6], [7, 8]], 0.0, 0.0),
        ([[0, 0], [0, 0]], 1.0, 1.0),
    ],
)
def test_padding(rows: list[list[int]], share: float, in_batch: float) -> None:
    assert padding(torch.tensor(rows), 0) == pytest.approx((share, in_batch))


def test_another_id_and_several_inputs() -> None:
    ids = torch.tensor([[5, 9, 9, 9]])
    assert padding({"image": torch.ones(1, 3), "ids": ids}, 9) == pytest.approx((0.75, 0.0))


@pytest.mark.parametrize(
    "inputs", [torch.ones(2, 4), torch.ones(2, 3, 4, dtype=torch.int64), torch.tensor([[1]])]
)
def test_what_has_no_padding(inputs: torch.Tensor) -> None:
    assert padding(inputs, 0) is None


def test_a_loader_is_read_alone() -> None:
    batches = [(torch.tensor([[1, 2, 0, 0]]), torch.tensor([0]))] * 3
    found = measure_pipeline(IterableLoader(batches), None, 0)
    assert found.batches_per_s > 0
    assert found.padding == pytest.approx(0.5)
