"""Tables: fill, standardise and one-hot encode columns with what was learnt from the train part."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from fulldeck.errors import BadInput, closest

LIMIT = 10.0
"""Standardised values are clipped here: one far outlier must not drown or overflow a row."""
MOST_CATEGORIES = 100
LEAST_ROWS = 5
"""A category in fewer train rows shares the place of unknown ones, so that this place is trained too."""
LISTED = 20
"""Most columns that an error names."""
MISSING = frozenset({"", "?", "NA", "N/A", "NaN", "nan", "null", "NULL"})
"""Texts that stand for a missing value."""


@dataclass(frozen=True)
class NumericColumn:
    """A missing value becomes `fill`; then (value - mean) / std; `indicator`: a place says it was missing."""

    name: str
    fill: float
    mean: float
    std: float
    indicator: bool

    @property
    def width(self) -> int:
        """Places that the column takes."""
        return 1 + self.indicator


@dataclass(frozen=True)
class CategoricalColumn:
    """One place for each category (None is "missing"), after a first one for all others."""

    name: str
    categories: tuple[str | None, ...]

    @property
    def width(self) -> int:
        """Places that the column takes."""
        return 1 + len(self.categories)


@dataclass(frozen=True)
class TableEncoder:
    """Columns (float64 with NaN, or objects: text or None) to one row of float32 for each example."""

    numeric: tuple[NumericColumn, ...]
    categorical: tuple[CategoricalColumn, ...]
    kind: ClassVar[str] = "table"
    lazy: ClassVar[bool] = False

    @classmethod
    def fit(cls, inputs: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Learn medians, means, spreads and categories from the columns of the train part."""
        numbers = {name: column for name, column in inputs.items() if column.dtype != object}
        texts = {name: column for name, column in inputs.items() if column.dtype == object}
        return cls(
            tuple(_fit_numeric(name, column) for name, column in numbers.items()),
            tuple(_fit_categorical(name, column) for name, column in texts.items()),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that are used."""
        return tuple(column.name for column in self._all)

    @property
    def width(self) -> int:
        """Number of values in an encoded row."""
        return sum(column.width for column in self._all)

    @property
    def _all(self) -> list[NumericColumn | CategoricalColumn]:
        return [*self.numeric, *self.categorical]

    def encode(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Columns of N values each to `input`: N x `width`, float32."""
        rows = len(next(iter(inputs.values())))
        encoded = np.zeros((rows, self.width), dtype=np.float32)
        place = 0
        for number in self.numeric:
            values = np.asarray(inputs[number.name], dtype=np.float64)
            missing = np.isnan(values)
            filled = np.where(missing, number.fill, values)
            encoded[:, place] = np.clip((filled - number.mean) / number.std, -LIMIT, LIMIT)
            if number.indicator:
                encoded[:, place + 1] = missing
            place += number.width
        for text in self.categorical:
            index = {category: 1 + i for i, category in enumerate(text.categories)}
            chosen = [index.get(value, 0) for value in inputs[text.name]]
            encoded[np.arange(rows), place + np.array(chosen, dtype=np.int64)] = 1
            place += text.width
        return {"input": encoded}

    def parse(self, item: bytes | str | Mapping[str, Any] | list[Any]) -> dict[str, float | str | None]:
        """A row: column names to values; null, "" and "?" are missing values, and numbers may be texts."""
        if not isinstance(item, Mapping):
            raise BadInput(f"send a row as an object with the columns {', '.join(self.columns)}")
        if unknown := [str(name)[:40] for name in item if name not in self.columns]:
            near = closest(unknown[0], self.columns) if len(unknown) == 1 else ""
            raise BadInput(f"unknown {_listed(unknown)}{near or f'; a row has {_listed(self.columns)}'}")
        if absent := [name for name in self.columns if name not in item]:
            verb = "is" if len(absent) == 1 else "are"
            raise BadInput(f"{_listed(absent)} {verb} absent; send null for a missing value")
        row: dict[str, float | str | None] = {}
        for number in self.numeric:
            row[number.name] = _number(item[number.name], number.name)
        for text in self.categorical:
            row[text.name] = _text(item[text.name], text.name)
        return row

    def remarks(self, row: Mapping[str, Any]) -> list[str]:
        """What in a parsed row was in too few train rows to be learnt: one sentence a column."""
        return [
            f'column "{text.name}": the model does not know "{row[text.name][:40]}"; it knows '
            f"{_some(text.categories)}"
            for text in self.categorical
            if row[text.name] is not None and row[text.name] not in text.categories
        ]

    def example(self) -> dict[str, float | str | None]:
        """A row as a person sends one: medians, and of each category the first."""
        numbers = {column.name: float(f"{column.fill:.4g}") for column in self.numeric}
        return numbers | {column.name: next(iter(column.categories), None) for column in self.categorical}

    def collect(self, items: list[Any]) -> dict[str, npt.NDArray[Any]]:
        """Rows to columns."""
        columns: dict[str, npt.NDArray[Any]] = {}
        for number in self.numeric:
            columns[number.name] = np.array([row[number.name] for row in items], dtype=np.float64)
        for text in self.categorical:
            columns[text.name] = np.array([row[text.name] for row in items], dtype=object)
        return columns

    def to_json(self) -> dict[str, Any]:
        """All columns with what was learnt."""
        return {
            "kind": self.kind,
            "numeric": [asdict(column) for column in self.numeric],
            "categorical": [
                {"name": column.name, "categories": list(column.categories)} for column in self.categorical
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            tuple(NumericColumn(**column) for column in value["numeric"]),
            tuple(CategoricalColumn(c["name"], tuple(c["categories"])) for c in value["categorical"]),
        )


def _listed(columns: Sequence[str]) -> str:
    names = ", ".join(f'"{name}"' for name in columns[:LISTED])
    more = f" and {len(columns) - LISTED} more" if len(columns) > LISTED else ""
    return f"{'column' if len(columns) == 1 else 'columns'} {names}{more}"


def _some(categories: Sequence[str | None]) -> str:
    names = [name for name in categories if name is not None]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more if names else "none"


def is_missing(cell: Any) -> bool:
    """Whether a cell is None, NaN or a text that stands for missing."""
    if isinstance(cell, str):
        return cell.strip() in MISSING
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _fit_numeric(name: str, column: npt.NDArray[Any]) -> NumericColumn:
    values = column.astype(np.float64)
    missing = np.isnan(values)
    if missing.all():
        return NumericColumn(name, 0.0, 0.0, 1.0, True)
    fill = float(np.median(values[~missing]))
    filled = np.where(missing, fill, values)
    return NumericColumn(name, fill, float(filled.mean()), float(filled.std()) or 1.0, bool(missing.any()))


def _fit_categorical(name: str, column: npt.NDArray[Any]) -> CategoricalColumn:
    counts = Counter(column)
    frequent = [category for category, count in counts.most_common(MOST_CATEGORIES) if count >= LEAST_ROWS]
    return CategoricalColumn(name, tuple(sorted(frequent, key=lambda c: (c is None, c or ""))))


def _number(cell: Any, name: str) -> float:
    if is_missing(cell):
        return math.nan
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        raise BadInput(f'column "{name}" must be a number or null, got {str(cell)[:40]!r}') from None
    if not math.isfinite(value):
        raise BadInput(f'column "{name}" must be a finite number or null')
    return value


def _text(cell: Any, name: str) -> str | None:
    if is_missing(cell):
        return None
    if isinstance(cell, bool):
        return str(cell).lower()
    if not isinstance(cell, (str, int, float)):
        raise BadInput(f'column "{name}" must be a text or null, got {str(cell)[:40]!r}')
    return str(cell).strip()
