"""Tensors that are spread over processes (DTensor): put together, looked at in pieces, and spread again.

What is not spread passes through as it is. `torch.distributed.tensor` is imported only where one is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_spread(value: Any) -> bool:
    """Whether this process has only a part of the tensor `value`."""
    return hasattr(value, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together, on every process; a collective where it is spread."""
    together: Tensor = tensor.full_tensor() if is_spread(tensor) else tensor  # type: ignore[attr-defined]
    return together


def piece(tensor: Any) -> tuple[Tensor, tuple[int, ...]] | None:
    """This process's part of a spread tensor and where it begins in the whole; None if another has it too.

    Of several processes with the same part the first one answers; an empty part is None as well.
    """
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements, local = tensor.device_mesh, tensor.placements, tensor.to_local()
    place = mesh.get_coordinate()  # None outside of the mesh
    if place is None or local.numel() == 0:
        return None
    if any(one.is_replicate() and place[n] > 0 for n, one in enumerate(placements)):
        return None
    _, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    return local, tuple(offset)


def put_together(parts: list[tuple[Tensor, list[int]]], shape: list[int]) -> Tensor:
    """The whole tensor of `shape` from its parts and where they begin.

    Raises ValueError if they do not fill it exactly.
    """
    if sum(part.numel() for part, _ in parts) != torch.Size(shape).numel():
        raise ValueError("parts of a tensor are missing")
    together = torch.empty(shape, dtype=parts[0][0].dtype)
    for part, offset in parts:
        place = tuple(slice(at, at + size) for at, size in zip(offset, part.shape, strict=True))
        together[place].copy_(part)
    return together


def spread_as(saved: Any, present: Any) -> Any:
    """`saved`, a tree of whole tensors, with each tensor spread as its like in `present` is."""
    if isinstance(saved, dict) and isinstance(present, dict):
        return {key: spread_as(value, present.get(key)) for key, value in saved.items()}
    if isinstance(saved, (list, tuple)) and isinstance(present, (list, tuple)) and len(saved) == len(present):
        return type(saved)(spread_as(one, like) for one, like in zip(saved, present, strict=True))
    if not isinstance(saved, Tensor) or not is_spread(present) or saved.shape != present.shape:
        return saved
    from torch.distributed.tensor import distribute_tensor

    # Without a source rank: every process has read the whole tensor, and takes its part.
    return distribute_tensor(saved, present.device_mesh, present.placements, src_data_rank=None)
