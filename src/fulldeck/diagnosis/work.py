"""The work that operators do, from the tensors that they are given, and the same work in a narrower type.

Counted is a step in which every call passes a TorchDispatchMode: floating-point operations by the formulas of
`torch.utils.flop_counter`, bytes by shapes and types.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.flop_counter import flop_registry

from fulldeck.diagnosis.ceilings import best_time
from fulldeck.diagnosis.findings import Operator
from fulldeck.moved_bytes import moved_bytes, works

TRIED, TRIED_SECONDS = 16, 0.03
"""How many operators are tried out in bfloat16, and for how long in each type."""
Key = tuple[str, tuple[tuple[int, ...], ...]]
"""An operator's name and the shapes of its tensors, as the profiler writes them."""
_aten = torch.ops.aten
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # torch counts attention on GPUs only.
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _aten._scaled_dot_product_flash_attention
    ],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}


@dataclass
class Work:
    """What all calls with one key came to."""

    calls: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    dtype: str = "float32"
    example: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = None


@dataclass
class WorkCounter(TorchDispatchMode):
    """Within it, every operator's work is added up; those that only look at memory anew do none."""

    work: dict[Key, Work] = field(default_factory=lambda: defaultdict(Work))

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        name = func._schema.name
        if works(func):
            tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
            found = self.work[name, tuple(tuple(one.shape) for one in tensors if one.ndim)]
            found.calls += 1
            found.bytes += moved_bytes(func, args, kwargs, outputs)
            found.dtype = next(
                (_name(one) for one in tree_iter((args, outputs)) if isinstance(one, Tensor)), ""
            )
            if (formula := _FORMULAS.get(func.overloadpacket)) is not None:
                found.flops += formula(*args, **kwargs, out_val=outputs)
                if found.example is None:
                    found.example = func, tree_map(_shape_only, args), kwargs
        return outputs


def tried_in_bfloat16(
    operators: Sequence[Operator], work: Mapping[Key, Work], device: torch.device
) -> tuple[Operator, ...]:
    """The same, the costliest float32 products and convolutions having been run in bfloat16 beside float32."""
    left = TRIED
    found = []
    for one in operators:
        done = work.get((one.name, one.shapes))
        if left and done is not None and done.example is not None and one.dtype == "float32":
            left -= 1
            one = replace(one, in_bfloat16=_narrowed(done.example, device))
        found.append(one)
    return tuple(found)


def _narrowed(example: tuple[Any, tuple[Any, ...], dict[str, Any]], device: torch.device) -> float | None:
    func, args, kwargs = example
    times = []
    for dtype in (torch.float32, torch.bfloat16):
        made = tree_map(lambda one, dtype=dtype: _made(one, dtype, device), args)
        try:
            times.append(best_time(lambda made=made: func(*made, **kwargs), device, TRIED_SECONDS))  # type: ignore[misc]
        except (RuntimeError, NotImplementedError):
            return None  # no kernel for this type
    return times[1] / times[0]


@dataclass(frozen=True)
class _Shape:
    """A tensor that is to be made again."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def _shape_only(value: Any) -> Any:
    return _Shape(tuple(value.shape), value.stride(), value.dtype) if isinstance(value, Tensor) else value


def _made(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    if not isinstance(value, _Shape):
        return value
    wanted = dtype if value.dtype == torch.float32 else value.dtype
    return torch.empty_strided(value.size, value.stride, dtype=wanted, device=device).fill_(1)


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
