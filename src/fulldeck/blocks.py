"""The blocks that a model is a stack of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from fulldeck.errors import BadInput, closest

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_ADAPTED = "base_layer"
"""What peft calls the layer that its adapters stand beside: the whole is still one layer."""


def repeated_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks that `model` is a stack of, by qualified name, in order.

    They are modules with parts of their own, of which at least two of the same class stand in one list
    (Sequential, ModuleList, ModuleDict), or else anywhere side by side. None lies within another.
    """
    return _search(model, "", everywhere=False) or _search(model, "", everywhere=True)


def _search(parent: nn.Module, prefix: str, *, everywhere: bool) -> dict[str, nn.Module]:
    children = dict(parent.named_children())
    kinds = Counter(type(child) for child in children.values() if _has_parts(child))
    side_by_side = everywhere or isinstance(parent, _LISTS)
    found: dict[str, nn.Module] = {}
    for name, child in children.items():
        path = f"{prefix}{name}"
        repeats = side_by_side and kinds[type(child)] > 1
        # What is itself a list of blocks is no block; and without a forward it could not be one.
        inside = (
            _search(child, f"{path}.", everywhere=everywhere)
            if isinstance(child, _LISTS) or not repeats
            else {}
        )
        if inside or not repeats or isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            found |= inside
        else:
            found[path] = child
    return found


def _has_parts(module: nn.Module) -> bool:
    return next(module.children(), None) is not None and not hasattr(module, _ADAPTED)


def most_alike(blocks: Mapping[str, nn.Module]) -> int:
    """How many of `blocks` are of one class and equal in the shapes of all that they hold."""
    shapes = (
        (type(block), *((name, tensor.shape) for name, tensor in block.state_dict().items()))
        for block in blocks.values()
    )
    return max(Counter(shapes).values(), default=0)


def named_blocks(model: nn.Module, patterns: Sequence[str], who: str) -> dict[str, nn.Module]:
    """The modules whose names match `patterns`, or classes are of that name; without those within another.

    Raises BadInput, as of `who`, if a pattern matches none.
    """
    names = {name: module for name, module in model.named_modules() if name}
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        some = {n: m for n, m in names.items() if fnmatchcase(n, pattern) or type(m).__name__ == pattern}
        if not some:
            there = {*names, *(type(module).__name__ for module in names.values())}
            raise BadInput(f'{who}.blocks: no module matches "{pattern}"{closest(pattern, there)}')
        found |= some
    return {
        name: module
        for name, module in names.items()
        if name in found and not any(name.startswith(f"{other}.") for other in found)
    }
