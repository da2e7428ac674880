"""The share of floating-point operations that are done in few bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def low_precision_share(work: Callable[[], object]) -> float:
    """Run `work`, and return the share (0 to 1) of its floating-point operations done in 16 bits or less.

    Counted are the matrix products, convolutions and attention kernels that
    `torch.utils.flop_counter` knows; without any the share is 0.
    """
    counter = _FlopsByWidth()
    with counter:
        work()
    total = sum(counter.flops.values())
    return counter.flops[True] / total if total else 0.0


class _FlopsByWidth(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count floating-point operations, by whether their first operand has at most 16 bits."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: Counter[bool] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        formula = _FORMULAS.get(getattr(func, "overloadpacket", None))
        if formula is not None:
            low = next(arg.dtype.itemsize <= 2 for arg in args if isinstance(arg, Tensor))
            self.flops[low] += formula(*args, **kwargs, out_val=outputs)
        return outputs


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
