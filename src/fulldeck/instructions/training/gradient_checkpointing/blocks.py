"""Finding the blocks that a model is a stack of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from fulldeck.errors import BadInput, closest

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def repeated_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks that `model` is a stack of, by qualified name, in order.

    They are modules with parts of their own, of which at least two of the same class stand in one list
    (Sequential, ModuleList, ModuleDict), or else anywhere side by side. None lies within another.
    """
    return _search(model, "", everywhere=False) or _search(model, "", everywhere=True)


def _search(parent: nn.Module, prefix: str, *, everywhere: bool) -> dict[str, nn.Module]:
    children = dict(parent.named_children())
    kinds = Counter(type(child) for child in children.values() if next(child.children(), None) is not None)
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


def named_blocks(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """The modules that match `patterns`, without those within another. Raises BadInput if a pattern matches none."""
    names = {name: module for name, module in model.named_modules() if name}
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        some = {n: m for n, m in names.items() if fnmatchcase(n, pattern) or type(m).__name__ == pattern}
        if not some:
            there = {*names, *(type(module).__name__ for module in names.values())}
            raise BadInput(
                f'gradient_checkpointing.blocks: no module matches "{pattern}"{closest(pattern, there)}'
            )
        found |= some
    return {
        name: module
        for name, module in names.items()
        if name in found and not any(name.startswith(f"{other}.") for other in found)
    }
