"""Workloads by name: built in (`digits`), or an adapter with `kind` and keys for a user's own data."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from fulldeck.errors import BadInput, closest
from fulldeck.workload import Workload

WORKLOADS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
"""The names in a recipe: each is a module in this package, whose class has the same name in CamelCase."""


def workload_class(name: str) -> type[Workload]:
    """The class of a workload. Raises BadInput with the closest name."""
    if name not in WORKLOADS:
        raise BadInput(
            f'unknown workload "{name}"{closest(name, WORKLOADS)}; there is {", ".join(WORKLOADS)}'
        )
    class_name = name.title().replace("_", "")
    cls: type[Workload] = getattr(importlib.import_module(f"{__name__}.{name}"), class_name)
    return cls


def make_workload(value: str | Mapping[str, Any]) -> Workload:
    """The workload of a recipe: a name, or a mapping with `kind` and the adapter's keys.

    Raises BadInput (declared.Refused with every problem for keys and values).
    """
    if isinstance(value, str):
        return workload_class(value)()
    if "kind" not in value:
        raise BadInput(f"workload needs a kind; there is {', '.join(WORKLOADS)}")
    return workload_class(str(value["kind"]))(**{key: item for key, item in value.items() if key != "kind"})
