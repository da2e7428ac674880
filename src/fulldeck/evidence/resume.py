"""Which measurements need not be made again: those of the same code on the same machine, as thorough as asked."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path
from typing import Any

from fulldeck.evidence.store import kept, kept_refusals
from fulldeck.machine import describe_machine, revision

OF_THE_MACHINE = ("processor", "cores", "accelerator", "versions")


def standing(folder: Path, *, quick: bool, budget: float | None) -> dict[str, dict[str, Any]]:
    """The results in `folder` that still stand, by instruction: measured, or refused with a reason.

    They were made by this revision of fulldeck on this machine with these versions, to their end, and with no
    less time or rounds than are asked for now. Raises BadInput for a file that is no result.
    """
    here, now = describe_machine(), revision()
    found = {}
    for _, result in chain(kept_refusals(folder), kept(folder)):
        machine = result["machine"]
        same = all(machine[name] == here[name] for name in OF_THE_MACHINE)
        thorough = (not result["quick"] or quick) and _time(result.get("budget")) >= _time(budget)
        if same and thorough and result["revision"] == now and result.get("status") != "interrupted":
            found[result["name"]] = result
    return found


def _time(budget: float | None) -> float:
    return math.inf if budget is None else budget
