"""Labels as people write them, to class indices."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fulldeck.encoders.table import is_missing
from fulldeck.errors import BadInput

_NUMBERLIKE = re.compile(r"[^A-Za-z]*[0-9][^A-Za-z]*")
"""What may be meant as a number: `3,25`, `$1,000`, `12 %`."""


@dataclass(frozen=True)
class Labels:
    """Class indices of the rows whose label is known; `kept` says which rows those are."""

    targets: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    kept: npt.NDArray[np.bool_]
    notes: tuple[str, ...]


def index_labels(labels: npt.NDArray[Any], where: str) -> Labels:
    """Number the different `labels` (numbers, texts, booleans, None), numbers by size, texts by name.

    White space around a label does not count. A final full stop does not, if every label that has one
    also occurs without (the test part of UCI Adult is written so); that is noted. Rows whose label is
    missing are not kept, and counted in the notes. Raises BadInput, saying `where`, for fewer than two
    classes, or if nearly every row has a label of its own.
    """
    names: list[str | None] = [_name(label) for label in labels]
    notes: list[str] = []
    dotted = {name for name in names if name is not None and name.endswith(".")}
    there = {name for name in names if name is not None}
    if dotted and all(name[:-1] in there - dotted for name in dotted):
        count = sum(name in dotted for name in names)
        names = [name[:-1] if name in dotted and name is not None else name for name in names]
        notes.append(
            f"labels: {count:,} end with a full stop ({_some(dotted)}) and are taken for those without"
        )
    kept = np.array([name is not None for name in names], dtype=bool)
    if not kept.all():
        notes.append(f"labels: {int((~kept).sum()):,} rows without a label are left out")
    counts = Counter(name for name in names if name is not None)
    if len(counts) < 2:
        what = f'only the class "{next(iter(counts))}"' if counts else "no label"
        raise BadInput(f"{where} has {what}; at least two classes are needed")
    if len(counts) > 20 and len(counts) > kept.sum() / 2:
        example = next(iter(counts))
        meant = _order(example)[0] == math.inf and _NUMBERLIKE.fullmatch(example)
        hint = f'; a number is written like 1234.5, and there is "{example}"' if meant else ""
        raise BadInput(
            f"{where} has {len(counts):,} different labels in {kept.sum():,} rows{hint}; is it the label?"
        )
    classes = tuple(sorted(counts, key=_order))
    index = {name: place for place, name in enumerate(classes)}
    targets = np.array([index[name] for name in names if name is not None], dtype=np.int64)
    return Labels(targets, classes, kept, tuple(notes))


def _name(label: Any) -> str | None:
    if is_missing(label):
        return None
    if isinstance(label, (bool, np.bool_)):
        return str(bool(label)).lower()
    if isinstance(label, (float, np.floating)) and float(label).is_integer():
        return str(int(label))
    return str(label).strip()


def _order(name: str) -> tuple[float, str]:
    try:
        return float(name), name
    except ValueError:
        return math.inf, name


def _some(names: set[str]) -> str:
    return ", ".join(f'"{name}"' for name in sorted(names)[:3])
