"""Which layers of a model adapters can stand beside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from fulldeck.errors import BadInput, closest

NAME = "parameter_efficient_finetuning"
GPT2_LINEAR = "Conv1D"
"""What transformers calls a linear layer whose weight is transposed."""
LISTED = 12
"""Names that a message lists at most."""


def find_head(model: nn.Module) -> tuple[str, ...]:
    """The name of the last linear layer; nothing if it is tied, or predicts tokens: those of the largest embedding."""
    last = next(
        (
            name
            for name in reversed(adaptable_layers(model))
            if isinstance(model.get_submodule(name), nn.Linear)
        ),
        None,
    )
    if last is None or last in shared_weights(model):
        return ()
    outputs = model.get_submodule(last).out_features
    tokens = max((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), default=0)
    return () if outputs == tokens else (last,)


def unwrapped(model: nn.Module) -> tuple[nn.Module, str]:
    """The module inside wrappers that hold nothing else, and the prefix of its names."""
    prefix = ""
    while len(children := dict(model.named_children())) == 1 and not list(model.parameters(recurse=False)):
        ((name, child),) = children.items()
        if not list(child.children()):
            break
        model, prefix = child, f"{prefix}{name}."
    return model, prefix


def adaptable_layers(model: nn.Module) -> list[str]:
    """Names of the layers that are called as modules: not those inside torch's MultiheadAttention."""
    inside = {
        id(m)
        for outer in model.modules()
        if isinstance(outer, nn.MultiheadAttention)
        for m in outer.modules()
    }
    return [
        name
        for name, module in model.named_modules()
        if id(module) not in inside
        and (isinstance(module, (nn.Linear, nn.Conv2d)) or type(module).__name__ == GPT2_LINEAR)
    ]


def narrows(layer: Any) -> bool:
    """Whether it has fewer outputs than inputs."""
    if isinstance(layer, nn.Linear):
        return layer.in_features > layer.out_features
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels > layer.out_channels
    return bool(layer.weight.shape[0] > layer.weight.shape[1])


def names_matching(modules: Mapping[str, nn.Module], pattern: str, where: str) -> list[str]:
    """Names of the modules that a pattern means. Raises BadInput if it means none, listing what there is."""
    found = [name for name, m in modules.items() if fnmatchcase(name, pattern) or type(m).__name__ == pattern]
    if found:
        return found
    leaves = (name for name, m in modules.items() if name and not list(m.children()))
    there = list(dict.fromkeys(re.sub(r"\b\d+\b", "*", name) for name in leaves))
    listed = ", ".join(there[:LISTED]) + (", ..." if len(there) > LISTED else "")
    raise BadInput(
        f'{NAME}.{where}: "{pattern}" matches nothing{closest(pattern, modules)}; there is {listed}'
    )


def shared_weights(model: nn.Module) -> dict[str, str]:
    """Each module whose weight is another's too, and that other's name."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(weight := getattr(module, "weight", None), Tensor):
            owners.setdefault(id(weight), []).append(name)
    return {
        name: next(other for other in names if other != name)
        for names in owners.values()
        if len(names) > 1
        for name in names
    }
