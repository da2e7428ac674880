"""Bytes that operators read and write, by the shapes and types of their tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

_GATHER = frozenset({"aten::embedding", "aten::index", "aten::index_select", "aten::gather"})
"""They read as much of their first operand as they write."""
_WRITE_ONLY = frozenset({"aten::zero_", "aten::fill_", "aten::copy_"})
_ALLOCATE = ("aten::empty", "aten::new_empty")


class MovedBytes(TorchDispatchMode):
    """Within it, `total` grows by what every operator moves. What is compiled passes it unseen."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        if works(func):
            self.total += moved_bytes(func, args, kwargs, outputs)
        return outputs


def works(func: Any) -> bool:
    """Whether an operator does any work: one that looks at memory anew, or reserves some, does none."""
    name: str = func._schema.name
    return name.startswith("aten::") and not func.is_view and not name.startswith(_ALLOCATE)


def moved_bytes(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any) -> int:
    """Bytes that a call reads and writes, each tensor once: inputs, and outputs that are not inputs.

    What is changed in place is written as well as read.
    """
    name, given = func._schema.name, [*args, *kwargs.values()]
    read = [_size(one) for one in tree_iter(given) if isinstance(one, Tensor)]
    made = sum(_size(one) for one in tree_iter(outputs) if isinstance(one, Tensor))
    if name in _GATHER:
        read[0] = made
    elif name in _WRITE_ONLY:
        read[0] = 0
    changed = [
        value
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    in_place = sum(_size(one) for one in tree_iter(changed) if isinstance(one, Tensor))
    return sum(read) + (in_place or made)


def _size(tensor: Tensor) -> int:
    # An expanded tensor has more elements than memory.
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
