"""The columns beside inputs and target: given split, group, time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from fulldeck.data import Array, Data
from fulldeck.errors import BadInput
from fulldeck.sources.column_file import ColumnFile, array
from fulldeck.sources.file_workload import FileWorkload
from fulldeck.sources.given_split import divide, looks_like_split, split_places

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True)
class Aside:
    """Names of the columns that say where a row belongs."""

    file: ColumnFile
    split: str | None
    group: str | None
    time: str | None

    @classmethod
    def find(cls, workload: FileWorkload, file: ColumnFile, notes: list[str]) -> Self:
        """The columns that the recipe names; a column "split" that says train somewhere is inferred.

        Raises BadInput if one that is named is absent.
        """
        named = {
            key: None if name is None else file.named(name)
            for key, name in (("split", workload.split), ("group", workload.group), ("time", workload.time))
        }
        if named["split"] is None and "split" in file.types:
            if looks_like_split(array(file.read(["split"])["split"])):
                named["split"] = file.usual("split", ["split"], notes)
            else:
                notes.append('column "split" never says train, so it is not taken for a split')
        return cls(file, **named)

    @property
    def columns(self) -> list[str]:
        """The names, each once."""
        return list(dict.fromkeys(name for name in (self.split, self.group, self.time) if name is not None))

    def placed(self, data: Data, frame: polars.DataFrame, max_train: int | None) -> Data:
        """`data`, whose rows are those of `frame`, with groups and times, and divided as given.

        Raises BadInput for wrong words in the split column, or a group or time that is missing.
        """
        for name in (self.group, self.time):
            if name is not None and frame[name].null_count():
                raise BadInput(f"{self.file.where(name)} has {frame[name].null_count():,} missing values")
        examples = replace(
            data.train,
            groups=None if self.group is None else array(frame[self.group]),
            times=None if self.time is None else _times(frame[self.time]),
        )
        places = (
            None
            if self.split is None
            else split_places(array(frame[self.split]), self.file.where(self.split))
        )
        return divide(replace(data, train=examples), places, max_train)


def _times(series: polars.Series) -> Array:
    """What can be sorted by time: numbers, also where they are written as texts, else texts (ISO 8601)."""
    if array(series).dtype == object:
        try:
            return array(series).astype(np.float64)
        except ValueError:
            pass
    return array(series)
