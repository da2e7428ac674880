"""CSV and parquet files as frames of columns, one file or one for each split. Needs the extra `files`."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from fulldeck.errors import BadInput, closest, extra
from fulldeck.sources.given_split import WORDS

if TYPE_CHECKING:
    import polars

PARQUET, CSV = (".parquet", ".pq"), (".csv", ".tsv")
SEPARATORS = (",", ";", "\t", "|")
NOT_UTF8 = "it is not in UTF-8; save it as CSV in UTF-8 (a spreadsheet offers that when it exports)"
LISTED = 20
"""Most column names that an error lists."""

Result = TypeVar("Result")


class ColumnFile:
    """The columns of a CSV or parquet file, of which only those asked for are read.

    Cells of a CSV file are texts, as they are; an empty one is None. A folder is read as one file if the
    names in it begin with train, validation or test (`train.csv`, `test-00000-of-00001.parquet`), which
    become a column "split". Raises BadInput if the file is missing, empty or not what its suffix says.
    """

    def __init__(self, path: str) -> None:
        self.path = existing(path)
        self._polars = extra("polars", "files")
        self._frame = self._guarded(self._scan)
        self.types: dict[str, Any] = dict(self._guarded(self._frame.collect_schema))
        """Column names to polars' types."""

    def read(self, columns: Sequence[str]) -> polars.DataFrame:
        """The frame of `columns`. Raises BadInput if it has no rows."""
        frame: polars.DataFrame = self._guarded(lambda: self._frame.select(columns).collect())
        if frame.height == 0:
            raise BadInput(f"{self.path} has no rows")
        return frame

    def named(self, column: str) -> str:
        """`column`, if there is one of that name.

        Raises BadInput with the closest name and the columns that there are.
        """
        if column not in self.types:
            near = closest(column, self.types) or ";"
            raise BadInput(f'{self.path} has no column "{column}"{near} it has {self.listed}')
        return column

    @property
    def listed(self) -> str:
        """The names of the columns, for messages."""
        names = list(self.types)
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        return ", ".join(names[:LISTED]) + more

    def holds_texts(self, column: str) -> bool:
        """Whether the column's cells are texts."""
        return bool(self.types[column] == self._polars.String)

    def usual(self, key: str, names: Sequence[str], notes: list[str]) -> str | None:
        """The first column with one of the usual `names` for the recipe's `key`, which is noted."""
        lower = {column.lower(): column for column in self.types}
        for name in names:
            if name in lower:
                notes.append(f'{key}: column "{lower[name]}", by its name')
                return lower[name]
        return None

    def doubts(self) -> list[str]:
        """What makes a CSV file look as if it had no line of names: names that are numbers, as in data."""
        numbers = [name for name in self.types if _is_number(name)]
        if not numbers or _counted(numbers) or self.path.suffix.lower() not in CSV:
            return []
        shown = ", ".join(f'"{name}"' for name in numbers[:3])
        return [
            f"careful: the first line of {self.path} looks like data, not names ({shown}); write the columns' "
            "names above it"
        ]

    def where(self, column: str) -> str:
        """A column of this file, for messages."""
        return f'column "{column}" of {self.path}'

    def _scan(self) -> polars.LazyFrame:
        if not self.path.is_dir():
            return self._scan_file(self.path)
        frames = [
            self._scan_file(path).with_columns(split=self._polars.lit(_split(path)))
            for path in column_files(self.path)
        ]
        if not frames:
            raise BadInput(f"{self.path} has no .csv, .tsv or .parquet file")
        whole: polars.LazyFrame = self._polars.concat(frames)
        return whole

    def _scan_file(self, path: Path) -> polars.LazyFrame:
        frame: polars.LazyFrame
        if path.suffix.lower() in PARQUET:
            frame = self._polars.scan_parquet(path)
        elif path.suffix.lower() in CSV:
            frame = self._polars.scan_csv(path, infer_schema=False, separator=_separator(path))
        else:
            raise BadInput(f"{path} is neither .csv, .tsv nor .parquet")
        return frame

    def _guarded(self, work: Callable[[], Result]) -> Result:
        errors = self._polars.exceptions
        try:
            return work()
        except errors.NoDataError:
            raise BadInput(f"{self.path} is empty") from None
        except (errors.PolarsError, errors.PanicException, OSError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            if "utf-8" in reason.lower() and self.path.suffix.lower() in CSV:
                reason = NOT_UTF8
            raise BadInput(f"{self.path} cannot be read: {reason}") from error


def column_files(path: Path) -> list[Path]:
    """The CSV and parquet files of a folder, by name; of a file, itself if it is one."""
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file for file in found if file.suffix.lower() in PARQUET + CSV]


def existing(path: str) -> Path:
    """`path`, which must exist. Raises BadInput with the closest name beside it."""
    there = Path(path)
    if not there.exists():
        names = [item.name for item in there.parent.iterdir()] if there.parent.is_dir() else []
        raise BadInput(f"{path} does not exist{closest(there.name, names)}")
    return there


def array(series: polars.Series) -> npt.NDArray[Any]:
    """A column for NumPy: numbers as they are if none is missing, dates as seconds, else objects or None."""
    if series.dtype.is_temporal():
        series = series.cast(_polars().Datetime("us")).dt.epoch("us") / 1e6
    if series.dtype.is_numeric() and series.null_count() == 0:
        return series.to_numpy()
    objects = np.empty(len(series), dtype=object)
    objects[:] = series.to_list()
    return objects


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _counted(names: list[str]) -> bool:
    """Whether numbers are true names: 0, 1, 2 as other tools number columns, or years in succession."""
    if not all(name.isdecimal() for name in names):
        return False
    first = int(names[0])
    return names == [str(first + i) for i in range(len(names))] and (len(names) > 1 or first < 2)


def _polars() -> Any:
    return extra("polars", "files")


def _split(path: Path) -> str:
    word = re.split(r"[^a-z]", path.stem.lower())[0]
    if word not in WORDS:
        raise BadInput(f"{path}: files of a folder must be named train.*, validation.* or test.*")
    return WORDS[word]


def _separator(path: Path) -> str:
    with path.open("rb") as stream:
        line = stream.readline(1 << 20)
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadInput(f"{path} cannot be read: {NOT_UTF8}")
    header = line.decode("utf-8", errors="replace")
    return max(SEPARATORS, key=header.count)
