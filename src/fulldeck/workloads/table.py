"""A user's own table: CSV or parquet with a target column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from fulldeck.data import Data, Examples, Task
from fulldeck.encoders.table import TableEncoder, is_missing
from fulldeck.errors import BadInput
from fulldeck.networks.mlp import Mlp
from fulldeck.param import param
from fulldeck.sources.aside import Aside
from fulldeck.sources.column_file import ColumnFile, array
from fulldeck.sources.features import read_features
from fulldeck.sources.file_workload import FileWorkload
from fulldeck.sources.labels import index_labels
from fulldeck.workload import TrainingDefaults

if TYPE_CHECKING:
    import polars

TARGETS = ("target", "label", "class", "y")
"""Names by which a target column is recognised; else it is the last column."""
MOST_NUMBERED_CLASSES = 20
"""Whole numbers are classes if there are at most so many different ones."""


class Table(FileWorkload):
    """Columns that may be numbers or texts, with gaps; the target decides the task."""

    kind: ClassVar[str] = "table"
    data_kind: ClassVar[str] = "table"
    defaults: ClassVar[TrainingDefaults] = TrainingDefaults(epochs=10, batch_size=256)

    target: str | None = param(None, doc="Column to predict; left out: by its name, else the last one.")
    task: Literal["unknown", "classification", "regression"] = param(  # type: ignore[misc]
        "unknown", doc="classification or regression; unknown: the target's values tell."
    )
    categorical: tuple[str, ...] = param((), doc="Columns to take as categories though they hold numbers.")
    ignore: tuple[str, ...] = param((), doc="Columns to leave out, such as identifiers.")

    def load(self) -> Data:
        """Read the file; column types, task and split are told from the values where the recipe is silent.

        Raises BadInput as the base class says, and for infinite numbers; a missing number is fine.
        """
        file = ColumnFile(self.path)
        notes = file.doubts()
        for name in (*self.categorical, *self.ignore):
            file.named(name)
        aside = Aside.find(self, file, notes)
        target = self._target(file, aside, notes)
        names = [name for name in file.types if name not in {target, *aside.columns, *self.ignore}]
        frame = file.read([*names, *dict.fromkeys([target, *aside.columns])])
        goal = _goal(frame[target], self.task, file.where(target))
        frame = frame.filter(goal.kept)
        inputs, inferred = read_features((frame[name] for name in names), self.categorical, file.path)
        data = Data(
            self.name,
            "table",
            goal.task,
            Examples(inputs, goal.targets),
            classes=goal.classes,
            notes=(*notes, *goal.notes, *inferred),
        )
        return aside.placed(data, frame, self.max_train)

    def encoder(self, data: Data) -> TableEncoder:
        """Medians, means, spreads and categories of the train part."""
        assert isinstance(data.train.inputs, dict)
        return TableEncoder.fit(data.train.inputs)

    def model(self, data: Data) -> nn.Module:
        """Two hidden layers; for regression the output is in the target's unit."""
        assert isinstance(data.encoder, TableEncoder)
        if data.task == "classification":
            return Mlp(data.encoder.width, len(data.classes))
        targets = data.train.targets.astype(np.float64)
        mean, std = float(targets.mean()), float(targets.std())
        return Mlp(data.encoder.width, 1, target_mean=mean, target_std=std)

    def _target(self, file: ColumnFile, aside: Aside, notes: list[str]) -> str:
        if self.target is not None:
            return file.named(self.target)
        named = file.usual("target", TARGETS, notes)
        if named is not None:
            return named
        last = [name for name in file.types if name not in aside.columns][-1]
        notes.append(
            f"careful: no column is named {', '.join(TARGETS[:-1])} or {TARGETS[-1]}: the target is the last "
            f'one, "{last}"; for another write target: COLUMN (fulldeck init --target COLUMN)'
        )
        return last


@dataclass(frozen=True)
class _Goal:
    """What is to be predicted, for the rows where it is known."""

    task: Task
    targets: npt.NDArray[Any]
    classes: tuple[str, ...]
    kept: npt.NDArray[np.bool_]
    notes: tuple[str, ...]


def _goal(series: polars.Series, task: str, where: str) -> _Goal:
    values = array(series)
    numbers = _numbers(values)
    if task == "regression" and numbers is None:
        raise BadInput(f"{where} holds texts, so it cannot be a regression's target")
    if task == "unknown":
        classes = numbers is None or _are_classes(numbers)
        said = f"task: {'classification' if classes else 'regression'}, by the values of {where}"
    else:
        classes, said = task == "classification", ""
    if classes or numbers is None:
        labels = index_labels(values, where)
        return _Goal(
            "classification", labels.targets, labels.classes, labels.kept, (*_said(said), *labels.notes)
        )
    kept = ~np.isnan(numbers)
    known = numbers[kept]
    if not np.isfinite(known).all():
        raise BadInput(f"{where} has infinite values")
    if len(np.unique(known)) < 2:
        raise BadInput(f"{where} has fewer than two different values; there is nothing to predict")
    lost = int((~kept).sum())
    notes = [*_said(said), *([f"{lost:,} rows without a target are left out"] if lost else [])]
    return _Goal("regression", known.astype(np.float32), (), kept, tuple(notes))


def _said(note: str) -> list[str]:
    return [note] if note else []


def _numbers(values: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
    """The values as numbers with NaN for missing ones, or None if any is another text or a truth value."""
    if values.dtype.kind in "iuf":
        return values.astype(np.float64)
    try:
        if any(isinstance(value, bool) for value in values):
            return None
        return np.array([np.nan if is_missing(value) else float(value) for value in values])
    except (TypeError, ValueError):
        return None


def _are_classes(numbers: npt.NDArray[np.float64]) -> bool:
    different = np.unique(numbers[~np.isnan(numbers)])
    return len(different) <= MOST_NUMBERED_CLASSES and bool((different == np.round(different)).all())
