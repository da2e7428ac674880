"""Columns of a table as inputs: which hold numbers, which hold categories, and where values are missing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fulldeck.encoders.table import MISSING
from fulldeck.errors import BadInput, extra

if TYPE_CHECKING:
    import polars

IDENTIFIER_ROWS = 50
"""From so many rows on, a text column whose every value is different is taken for an identifier."""

Columns = dict[str, npt.NDArray[Any]]


def read_features(
    columns: Iterable[polars.Series], categorical: Collection[str], where: object
) -> tuple[Columns, tuple[str, ...]]:
    """Numbers as float64 with NaN, categories as text or None; and notes on what was inferred.

    A column of texts that all are numbers holds numbers, unless it is in `categorical`. Identifiers,
    empty columns and types that are no values (lists, dates) are left out. Raises BadInput, saying
    `where`, for an infinite number and if no column is left.
    """
    inputs: Columns = {}
    left_out: list[str] = []
    missing: dict[str, int] = {}
    for series in columns:
        values = _values(series, series.name in categorical)
        if isinstance(values, str):
            left_out.append(f"{series.name} ({values})")
            continue
        if values.null_count():
            missing[series.name] = values.null_count()
        inputs[series.name] = _array(values, where)
    if not inputs:
        said = f": {', '.join(left_out)}" if left_out else ""
        raise BadInput(f"{where} has no column to predict from{said}")
    return inputs, tuple(_notes(inputs, left_out, missing))


def _values(series: polars.Series, categorical: bool) -> polars.Series | str:
    """The column as Float64 or String with null for missing values, or why it is left out."""
    polars = extra("polars", "files")
    if series.dtype.is_numeric():
        series = series.cast(polars.Float64).fill_nan(None)
        if categorical:
            texts = [None if value is None else f"{value:.15g}" for value in series.to_list()]
            series = polars.Series(series.name, texts, dtype=polars.String)
    elif isinstance(series.dtype, (polars.String, polars.Boolean, polars.Categorical, polars.Enum)):
        series = series.cast(polars.String).str.strip_chars()
        series = series.set(series.is_in(list(MISSING)).fill_null(False), None)
    else:
        return str(series.dtype)
    if series.null_count() == len(series):
        return "empty"
    if series.dtype == polars.String and not categorical:
        numbers = series.cast(polars.Float64, strict=False)
        if numbers.null_count() == series.null_count():
            return numbers
        if len(series) >= IDENTIFIER_ROWS and series.n_unique() == len(series):
            return "every value is different"
    return series


def _array(series: polars.Series, where: object) -> npt.NDArray[Any]:
    if series.dtype.is_numeric():
        numbers: npt.NDArray[Any] = series.fill_null(float("nan")).to_numpy(writable=True)
        if np.isinf(numbers).any():
            row = int(np.flatnonzero(np.isinf(numbers))[0])
            raise BadInput(f'column "{series.name}" of {where} is infinite in row {row + 1:,}')
        return numbers
    objects = np.empty(len(series), dtype=object)
    objects[:] = series.to_list()
    return objects


def _notes(inputs: Columns, left_out: list[str], missing: dict[str, int]) -> Iterable[str]:
    numbers = [name for name, column in inputs.items() if column.dtype != object]
    texts = [name for name, column in inputs.items() if column.dtype == object]
    if numbers:
        yield f"{_columns(numbers)} numbers: {', '.join(numbers)}"
    if texts:
        yield f"{_columns(texts)} categories: {', '.join(texts)}"
    if missing:
        yield f"{sum(missing.values()):,} missing values in {', '.join(missing)}"
    if left_out:
        yield f"left out: {', '.join(left_out)}"


def _columns(names: list[str]) -> str:
    return "1 column holds" if len(names) == 1 else f"{len(names)} columns hold"
