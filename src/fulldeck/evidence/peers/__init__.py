"""Libraries that do the same, to be measured beside an instruction: one file each, found by its name.

Each has `REQUIREMENT`, what pip installs, `MODULE`, what is imported, and
`steps(loop: TrainingLoop) -> Iterator[float]`: it trains what the loop is made of in the library's own way,
and yields the loss after each optimizer step, for ever.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from types import ModuleType

from fulldeck.errors import BadInput, closest


def peer(name: str) -> ModuleType:
    """The file of a peer. Raises BadInput for an unknown one, and for one that is not installed."""
    known = [one.name for one in pkgutil.iter_modules(__path__)]
    if name not in known:
        raise BadInput(f'unknown peer "{name}"{closest(name, known)}; there are {", ".join(known)}')
    file = importlib.import_module(f"{__name__}.{name}")
    if importlib.util.find_spec(file.MODULE) is None:
        raise BadInput(f"the peer {name} is not installed: pip install {file.REQUIREMENT}")
    return file


def installed(name: str | None) -> str | None:
    """`name`, if there is such a peer and it is installed; else None."""
    if name is None:
        return None
    try:
        peer(name)
    except BadInput:
        return None
    return name
