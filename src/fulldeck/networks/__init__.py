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
    """`{"network": name, "arguments": {...}}` if `module` is a built-in network, else None."""
    package, _, name = type(module).__module__.rpartition(".")
    if package == __name__ and type(module).__name__ == _class_name(name):
        return {"network": name, "arguments": module.arguments}
    return None


def build(description: Mapping[str, Any]) -> nn.Module:
    """The network that `describe` described, untrained. Raises BadInput for a name that is not built in."""
    name = description.get("network")
    if not isinstance(name, str) or name not in NETWORKS:
        raise BadInput(f"unknown network {name!r}; there is {', '.join(NETWORKS)}")
    cls = getattr(importlib.import_module(f"{__name__}.{name}"), _class_name(name))
    module: nn.Module = cls(**description["arguments"])
    return module


def _class_name(name: str) -> str:
    return name.title().replace("_", "")
