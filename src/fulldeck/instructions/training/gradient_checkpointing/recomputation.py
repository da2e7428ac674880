"""Blocks whose inside is computed again in the backward pass, exactly as it was the first time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from fulldeck.blocks import named_blocks, repeated_blocks
from fulldeck.errors import CannotAct

Keep = Literal["nothing", "attention", "products"]

_CACHES = ("past_key_values", "past_key_value", "layer_past")


def _operators(*names: str) -> list[Any]:
    return [getattr(torch.ops.aten, name).default for name in names if hasattr(torch.ops.aten, name)]


_ATTENTION = _operators(
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
_KEPT: dict[Keep, list[Any]] = {
    "nothing": [],
    "attention": _ATTENTION,
    "products": [*_ATTENTION, *_operators("mm", "addmm", "bmm", "baddbmm", "convolution")],
}


def checkpoint_blocks(
    model: nn.Module, *, blocks: Sequence[str] = (), every: int = 1, keep: Keep = "nothing"
) -> CheckpointedBlocks:
    """Recompute one in `every` of the blocks of `model` in each backward pass, until `remove()` is called.

    `blocks` are qualified names with the wildcards of fnmatch, or names of classes; without any, blocks are
    the repeated ones (`fulldeck.repeated_blocks`). `keep` names what is kept inside of them. Raises CannotAct if
    nothing repeats, BadInput if an entry of `blocks` matches nothing.
    """
    return CheckpointedBlocks(chosen_blocks(model, blocks, every), keep)


def chosen_blocks(model: nn.Module, blocks: Sequence[str], every: int) -> dict[str, nn.Module]:
    """The blocks that `checkpoint_blocks` recomputes, by name."""
    found = named_blocks(model, blocks, "gradient_checkpointing") if blocks else repeated_blocks(model)
    if not found:
        there = ", ".join(f"{name} ({type(child).__name__})" for name, child in model.named_children())
        raise CannotAct(
            f"gradient_checkpointing: this model has no repeated blocks; it has {there or 'no parts at all'}; "
            "name the parts to recompute: blocks: [NAME, ...]"
        )
    return dict(list(found.items())[::every])


class CheckpointedBlocks:
    """Blocks whose inside is recomputed, by `names`, until `remove()`."""

    def __init__(self, blocks: Mapping[str, nn.Module], keep: Keep) -> None:
        self.blocks = dict(blocks)
        self.names = list(blocks)
        self._before: list[tuple[nn.Module, Any]] = []
        self._recomputed: list[_Recomputed] = []
        for block in blocks.values():
            if isinstance(block.__dict__.get("forward"), _Recomputed):  # a copy of a checkpointed block
                del block.forward
            self._before.append((block, block.__dict__.get("forward")))
            self._recomputed.append(_Recomputed(block, keep))
        self._put_in()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within it, the blocks keep their activations; what was compiled with them stays good for afterwards."""
        self._take_out()
        try:
            yield
        finally:
            self._put_in()

    def remove(self) -> None:
        """Let the blocks keep their activations again."""
        self._take_out()
        self._before, self._recomputed = [], []

    def _put_in(self) -> None:
        for (block, _), recomputed in zip(self._before, self._recomputed, strict=True):
            block.forward = recomputed

    def _take_out(self) -> None:
        for block, forward in self._before:
            del block.forward
            if forward is not None:
                block.forward = forward


class _Recomputed:
    """In the place of a block's forward. A bound method and no closure: a copy of the model calls the copy's."""

    def __init__(self, block: nn.Module, keep: Keep) -> None:
        self.block = block
        self.forward = block.forward
        self.kept = _KEPT[keep]
        self.selective = partial(create_selective_checkpoint_contexts, self.kept)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*inputs, **named)
        for name in _CACHES:  # of keys and values for generation: a second pass would write it twice
            if named.get(name) is not None:
                named[name] = None
        if not torch.compiler.is_compiling():
            return checkpoint(self.forward, *inputs, use_reentrant=False, context_fn=self._contexts, **named)
        # The compiler moves buffers once, and can follow these two forms only.
        if not self.kept:
            return checkpoint(self.forward, *inputs, use_reentrant=False, **named)
        return checkpoint(self.forward, *inputs, use_reentrant=False, context_fn=self.selective, **named)

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        first, again = self.selective() if self.kept else (nullcontext(), nullcontext())
        return first, SameBuffers(self.block, again)


class SameBuffers:
    """Within it a block has copies of the buffers that it had when this was made, and moves only those."""

    def __init__(self, block: nn.Module, inner: AbstractContextManager[Any]) -> None:
        self.inner = inner
        self.buffers = [
            (module._buffers, name, buffer.clone())
            for module in block.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self.present: list[Tensor | None] = []

    def __enter__(self) -> None:
        self.present = [where[name] for where, name, _ in self.buffers]
        for where, name, value in self.buffers:
            where[name] = value.clone()
        self.inner.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.inner.__exit__(*error)
        for (where, name, _), value in zip(self.buffers, self.present, strict=True):
            where[name] = value
