"""Modules compiled in place, and what of a model to compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from fulldeck.blocks import most_alike, repeated_blocks
from fulldeck.errors import CannotAct

Region = Literal["auto", "blocks", "model"]
MANY = 8
"""From so many equal blocks on, `auto` compiles the block and not the whole."""


class CompiledModel:
    """Modules that were compiled in place, until they are not."""

    def __init__(self, modules: Mapping[str, nn.Module], mode: str, backend: str) -> None:
        self.names = list(modules)
        self._modules = list(modules.values())
        # A backend that is not torch's own knows no modes.
        known = mode if backend == "inductor" else None
        for module in self._modules:
            call = _in_a_frame(module._call_impl)
            module._compiled_call_impl = torch.compile(call, dynamic=False, backend=backend, mode=known)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within it, the modules compute as they are."""
        before = [module._compiled_call_impl for module in self._modules]
        self.remove()
        try:
            yield
        finally:
            for module, one in zip(self._modules, before, strict=True):
                module._compiled_call_impl = one

    def remove(self) -> None:
        """Let the modules compute as they are from now on."""
        for module in self._modules:
            module._compiled_call_impl = None


def _in_a_frame(call: Callable[..., Any]) -> Callable[..., Any]:
    # As module.compile() does it, torch's own containers would fall apart into graphs of their children.
    def run(*inputs: Any, **named: Any) -> Any:
        return call(*inputs, **named)

    return run


def compile_model(
    model: nn.Module, region: Region = "auto", *, mode: str = "default", backend: str = "inductor"
) -> CompiledModel:
    """Compile `model`, or its repeated blocks, in place; the work is done when a shape comes for the first time.

    `mode` and `backend` are those of torch.compile. Raises CannotAct for `blocks` where none are repeated.
    """
    blocks = repeated_blocks(model)
    if region == "blocks" and not blocks:
        raise CannotAct("the model has no repeated blocks; write region: model")
    if region == "model" or (region == "auto" and most_alike(blocks) < MANY):
        blocks = {"": model}
    return CompiledModel(blocks, mode, backend)
