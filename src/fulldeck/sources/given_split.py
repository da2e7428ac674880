"""A split that the data come with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fulldeck.data import Data, Examples
from fulldeck.errors import BadInput

WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""What a source may call a split."""

Places = Mapping[str, npt.NDArray[np.int64]]


def split_places(values: npt.NDArray[Any], where: str) -> Places:
    """Split names of N rows to the rows of each split.

    Raises BadInput, saying `where`, for another word and if no row is for training.
    """
    words = [str(value).strip().lower() for value in values]
    for word, value in zip(words, values, strict=True):
        if word not in WORDS:
            raise BadInput(f'{where} holds "{value}"; it may hold train, validation (or dev) and test')
    names = np.array([WORDS[word] for word in words])
    places = {name: np.flatnonzero(names == name) for name in ("train", "validation", "test")}
    if not len(places["train"]):
        raise BadInput(f"{where} has no train rows")
    return {name: rows for name, rows in places.items() if len(rows)}


def looks_like_split(values: npt.NDArray[Any]) -> bool:
    """Whether at least one of `values` says train."""
    return any(WORDS.get(str(value).strip().lower()) == "train" for value in values)


def divide(data: Data, places: Places | None, max_train: int | None) -> Data:
    """`data` (all of it in `train`) in the given splits, and not more than `max_train` rows in `train`.

    Raises BadInput if the train part has one class only.
    """
    full = data.train
    parts: dict[str, Examples] = {"train": full}
    if places is not None:
        parts = {name: full.take(rows) for name, rows in places.items()}
        sizes = ", ".join(f"{name} {len(rows):,}" for name, rows in parts.items())
        data = data.noting(f"split as given: {sizes}")
    if max_train is not None and max_train < len(parts["train"]):
        data = data.noting(f"only {max_train:,} of {len(parts['train']):,} train rows are used, as asked")
        chosen = np.random.default_rng(0).permutation(len(parts["train"]))[:max_train]
        parts["train"] = parts["train"].take(np.sort(chosen))
    if data.task == "classification" and len(there := np.unique(parts["train"].targets)) < len(data.classes):
        absent = [name for place, name in enumerate(data.classes) if place not in there]
        if len(there) < 2:
            raise BadInput(
                f'the train part of {data.name} has only the class "{data.classes[int(there[0])]}"; '
                "at least two classes are needed"
            )
        data = data.noting(f"no train row has the class {', '.join(absent)}")
    return replace(data, **parts)  # type: ignore[arg-type]
