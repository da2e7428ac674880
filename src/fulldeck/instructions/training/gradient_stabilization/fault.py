"""Find out where numbers that are not finite come from: the first module whose output went bad."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def first_fault(model: nn.Module, forward: Callable[[], object]) -> str | None:
    """In words, the first thing in `forward()` that is not finite; None if every module's output is.

    `forward` runs `model` (all of it, or several times). Named is the innermost module, by its name and
    class, or what goes into it where that was not finite already. Hooks are removed; batch-norm's statistics
    and the random state move as in any pass, which is the caller's to undo.
    """
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            if not found and not all_finite(outputs):
                spoken = f"{name or 'the model'} ({type(module).__name__})"
                given_bad = not all_finite(inputs)
                found.append(f"what goes into {spoken}" if given_bad else f"the output of {spoken}")

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules()]
    try:
        # What is compiled would be compiled anew for the hooks, with every look at a number as a break in it.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def first_bad_gradient(model: nn.Module) -> str | None:
    """In words, the gradient that went bad first in the backward pass, which comes to the last layers first."""
    bad = [n for n, p in model.named_parameters() if p.grad is not None and not all_finite(p.grad)]
    return f"the gradient of {bad[-1]}" if bad else None


def all_finite(value: Any) -> bool:
    """Whether all floating-point numbers in a tensor, or in tensors in containers, are finite."""
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
