"""Modules that stay in float32 while the rest computes in fewer bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from fulldeck.errors import BadInput, closest


def keep_in_float32(model: nn.Module, patterns: Sequence[str]) -> Callable[[], None]:
    """Let the modules that match `patterns` compute in float32 under autocast; return what undoes it.

    A pattern is a qualified name with the wildcards of fnmatch, or the name of a class. Raises BadInput
    for a pattern that matches nothing.
    """
    hooks = [_Float32Hooks(m, device_of(model).type) for m in matching_modules(model, patterns).values()]

    def release() -> None:
        for hook in hooks:
            hook.remove()

    return release


def matching_modules(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """The modules that `patterns` mean, by name. Raises BadInput for a pattern that matches nothing."""
    names = dict(model.named_modules())
    chosen: dict[str, nn.Module] = {}
    for pattern in patterns:
        found = {n: m for n, m in names.items() if fnmatchcase(n, pattern) or type(m).__name__ == pattern}
        if not found:
            there = {*names, *(type(module).__name__ for module in names.values())}
            raise BadInput(f'amp_optimizer.keep_fp32: no module matches "{pattern}"{closest(pattern, there)}')
        chosen |= found
    return chosen


class _Float32Hooks:
    """Turn autocast off around one module's forward. Hooks can be removed in any order, patches cannot."""

    def __init__(self, module: nn.Module, device_type: str) -> None:
        self.device_type = device_type
        self.before: list[bool] = []
        self.handles = [
            module.register_forward_pre_hook(self.enter, with_kwargs=True),
            module.register_forward_hook(self.leave, always_call=True),
        ]

    def enter(self, module: nn.Module, inputs: Any, named: Any) -> tuple[Any, Any]:
        # Not torch.autocast as a context: torch's compiler cannot follow one from hook to hook.
        self.before.append(torch.is_autocast_enabled(self.device_type))
        torch.set_autocast_enabled(self.device_type, False)
        return tuple(map(_float32, inputs)), {name: _float32(value) for name, value in named.items()}

    def leave(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if self.before:
            torch.set_autocast_enabled(self.device_type, self.before.pop())

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def device_of(model: nn.Module) -> torch.device:
    """Where its parameters are."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
