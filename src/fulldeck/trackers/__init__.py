"""Trackers by name: adapters from the run's one stream of figures to other people's tools."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from fulldeck.errors import BadInput, closest
from fulldeck.trackers.tracker import Tracker

TRACKERS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
"""The names in a recipe: each is a module in this package, whose class has the same name in CamelCase."""


def tracker_class(name: str) -> type[Tracker]:
    """The class of a tracker. Raises BadInput with the closest name."""
    if name not in TRACKERS:
        raise BadInput(f'unknown tracker "{name}"{closest(name, TRACKERS)}; there is {", ".join(TRACKERS)}')
    cls: type[Tracker] = getattr(importlib.import_module(f"{__name__}.{name}"), name.title())
    return cls


def make_tracker(name: str, parameters: Mapping[str, Any]) -> Tracker:
    """A tracker from a recipe. Raises BadInput (declared.Refused for its parameters)."""
    return tracker_class(name)(**parameters)
