"""The built-in networks, by name: what a package may rebuild from JSON and safetensors, without code.

A network is a module whose constructor takes JSON values only and keeps them in `arguments`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fulldeck.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

NETWORKS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
"""Each is a module in this package, whose class has the same name in CamelCase."""


def describe(module: nn.Module) -> dict[str, Any] | None:
    """`{"network": name, "arguments": {...}}` if `module` is a built-in network, else None.

    With `"norm": "group"` where group norms were put in the place of its batch norms. None also for one whose layers
    were changed otherwise since it was built: its weights would not fit what is built anew.
    """
    import torch

    package, _, name = type(module).__module__.rpartition(".")
    if package != __name__ or type(module).__name__ != _class_name(name):
        return None
    described = {"network": name, "arguments": module.arguments}
    own = _shapes(module)
    for description in (described, described | {"norm": "group"}):
        with torch.device("meta"):  # shapes alone: no memory, no random numbers
            if _shapes(build(description)) == own:
                return description
    return None


def build(description: Mapping[str, Any]) -> nn.Module:
    """The network that `describe` described, untrained. Raises BadInput for a name that is not built in."""
    name = description.get("network")
    if not isinstance(name, str) or name not in NETWORKS:
        raise BadInput(f"unknown network {name!r}; there is {', '.join(NETWORKS)}")
    cls = getattr(importlib.import_module(f"{__name__}.{name}"), _class_name(name))
    module: nn.Module = cls(**description["arguments"])
    if description.get("norm") == "group":
        from fulldeck.group_norm import with_group_norm

        with_group_norm(module)
    return module


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(value.shape) for name, value in module.state_dict().items() if hasattr(value, "shape")
    }


def _class_name(name: str) -> str:
    return name.title().replace("_", "")
