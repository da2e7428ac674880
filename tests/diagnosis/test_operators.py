"""Work of operators from the tensors that they are given; an empty profile is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fulldeck.diagnosis.ceilings import Ceilings
from fulldeck.diagnosis.operators import bound_of, timed_operators
from fulldeck.diagnosis.work import Work, WorkCounter
from fulldeck.errors import RunFailed

MACHINE = Ceilings({"float32": 1e11, "bfloat16": 2e11}, 1e10, 1e-6)
A, B = torch.ones(64, 32), torch.ones(32, 16)


@pytest.mark.parametrize(
    ("name", "call", "flops", "moved"),
    [
        ("aten::mm", lambda: A @ B, 2 * 64 * 32 * 16, 4 * (64 * 32 + 32 * 16 + 64 * 16)),
        ("aten::relu", lambda: A.relu(), 0, 2 * A.nbytes),
        ("aten::add_", lambda: A.clone().add_(1), 0, 2 * A.nbytes),
        ("aten::zero_", lambda: A.clone().zero_(), 0, A.nbytes),
        ("aten::mul", lambda: A * torch.ones(1).expand(64, 32), 0, 2 * A.nbytes + 4),
        ("aten::embedding", lambda: torch.embedding(A, torch.tensor([1, 2])), 0, 2 * (2 * 32 * 4) + 16),
    ],
)
def test_work(name: str, call: Callable[[], Tensor], flops: int, moved: int) -> None:
    with WorkCounter() as counter:
        call()
    (work,) = [one for (found, _), one in counter.work.items() if found == name]
    assert (work.calls, work.flops, work.bytes) == (1, flops, moved)


def test_looking_at_memory_anew_is_no_work() -> None:
    with WorkCounter() as counter:
        A.t().reshape(4, -1).detach()
        torch.empty(1000)
    assert {name for name, _ in counter.work} <= {"aten::clone", "aten::_unsafe_view"}


@pytest.mark.parametrize(
    ("work", "bound"),
    [
        (Work(1, 1e9, 1e6), "compute"),
        (Work(1, 1e6, 1e6), "memory"),
        (Work(1, 10.0, 40.0), "launch"),
        (Work(1, 1.5e9, 1e8, "bfloat16"), "memory"),
    ],
)
def test_what_bounds_an_operator(work: Work, bound: str) -> None:
    assert bound_of(work, MACHINE) == bound


def test_an_empty_profile() -> None:
    with pytest.raises(RunFailed, match="the profile is empty"):
        timed_operators([], {}, 4, {"gradients": 1.0}, MACHINE)
