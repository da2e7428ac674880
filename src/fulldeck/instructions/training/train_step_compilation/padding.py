"""Texts of all lengths in a few: shapes that are compiled once."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fulldeck.training.batch import Tensors
from fulldeck.training.token_mean import IGNORED


def pad_to_multiple(
    inputs: Tensors, targets: Tensor | None, multiple: int, *, padding: int = 0, more: int = 0
) -> tuple[Tensors, Any]:
    """Token ids (N x T, or several such by name) and targets with T rounded up to a `multiple`, plus `more`.

    Ids are filled up with `padding`, what has `mask` in its name with 0, and targets that are N x T with the
    target that does not count (-100). What is no integer of two dimensions stays as it is.
    """

    def filled(value: Tensor, filling: int) -> Tensor:
        if value.ndim != 2 or value.is_floating_point():
            return value
        missing = -value.shape[1] % multiple + more
        return nn.functional.pad(value, (0, missing), value=filling) if missing else value.contiguous()

    if targets is not None:
        targets = filled(targets, IGNORED)
    if isinstance(inputs, Tensor):
        return filled(inputs, padding), targets
    return {n: filled(v, 0 if "mask" in n else padding) for n, v in inputs.items()}, targets
