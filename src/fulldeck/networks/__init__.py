"""The built-in networks, by name: what a package may rebuild from JSON and safetensors, without code.

A network is a module whose constructor takes JSON values only and keeps them in `arguments`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fulldeck.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

NETWORKS = {
    "residual_net": "ResidualNet",
    "mlp": "Mlp",
    "text_transformer": "TextTransformer",
}


def describe(module: nn.Module) -> dict[str, Any] | None:
    """`{"network": name, "arguments": {...}}` if `module` is a built-in network, else None."""
    for name, class_name in NETWORKS.items():
        if type(module).__module__ == f"{__name__}.{name}" and type(module).__name__ == class_name:
            return {"network": name, "arguments": module.arguments}
    return None


def build(description: Mapping[str, Any]) -> nn.Module:
    """The network that `describe` described, untrained. Raises BadInput for a name that is not built in."""
    name = description.get("network")
    if name not in NETWORKS:
        raise BadInput(f"unknown network {name!r}; there is {', '.join(NETWORKS)}")
    cls = getattr(importlib.import_module(f"{__name__}.{name}"), NETWORKS[name])
    module: nn.Module = cls(**description["arguments"])
    return module
