"""Blocks that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from fulldeck.errors import BadInput, closest


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
