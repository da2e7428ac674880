"""A model on its way to deployment: the module, its artifacts, and the data that it is judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from fulldeck.onnx_file import model_files

if TYPE_CHECKING:
    from torch import nn

    from fulldeck.data import Data, Examples
    from fulldeck.training.batch import Metric

Array = npt.NDArray[Any]

MAX_ROWS, MAX_VALUES = 2_000, 2**26
"""Validation rows that a candidate is judged on, and values that their outputs may have together (a
language model has as many for each token as its vocabulary is large); more would change little."""


@dataclass(frozen=True)
class Tolerance:
    """What one `optimise` may change at most, on validation data.

    `metric_drop` is in the metric's own unit (0.01 is one point of accuracy), `difference` the largest
    absolute difference of any output, `agreement` the least share of equal predictions; None: not
    limited.
    """

    metric_drop: float | None = 0.01
    difference: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class Artifact:
    """A file that an engine can run, in the run's `artifacts` folder."""

    path: Path
    kind: str
    """The format: onnx."""
    precision: str
    """Of most weights: fp32, bf16, fp16, int8, int4."""
    engine: str
    """The engine that it is meant for, as in `fulldeck.engines`."""

    @property
    def bytes(self) -> int:
        """Size on disk, with weights that lie beside the file."""
        return sum(file.stat().st_size for file in model_files(self.path))


@dataclass(frozen=True)
class Candidate:
    """A trained model in its current form.

    `artifacts` are in the order in which they were made; the last one, if any, is what will be served,
    otherwise the module itself is. `precision` is that of the module's weights. `carried` holds what
    earlier doors left, under the label of the instruction. `judged_by` are the workload's metrics, of which
    the gate compares the first; empty: the usual ones of the task. `lineage` names what was done, in order;
    `notes` are for the user.
    """

    name: str
    module: nn.Module
    data: Data
    folder: Path
    artifacts: tuple[Artifact, ...] = ()
    precision: str = "fp32"
    carried: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: MappingProxyType({}))
    judged_by: Mapping[str, Metric] = field(default_factory=lambda: MappingProxyType({}))
    lineage: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def artifact(self) -> Artifact | None:
        """What will be served, or None if that is the module itself."""
        return self.artifacts[-1] if self.artifacts else None

    def with_artifact(self, artifact: Artifact) -> Self:
        """The same candidate, served from `artifact` from now on."""
        return replace(self, artifacts=(*self.artifacts, artifact))

    def carrying(self, label: str, value: Any) -> Self:
        """The same candidate, with `value` left under `label` for a later door."""
        return replace(self, carried=MappingProxyType({**self.carried, label: value}))

    def telling(self, note: str) -> Self:
        """The same candidate, with one line more that the user should know."""
        return replace(self, notes=(*self.notes, note))

    def example(self, rows: int = 2) -> dict[str, Array]:
        """The first `rows` validation examples as the model's inputs, by name."""
        return self.encoded(self.judged.take(np.arange(min(rows, len(self.judged)))))

    @property
    def judged(self) -> Examples:
        """The examples that conversions are judged on: validation, else train."""
        return self.data.validation if self.data.validation is not None else self.data.train

    def encoded(self, examples: Examples) -> dict[str, Array]:
        """The model's inputs for `examples`, by name."""
        assert self.data.encoder is not None, "a candidate's data has been encoded"
        return self.data.encoder.encode(examples.inputs)

    @cached_property
    def _engine(self) -> Any:
        from fulldeck.engines import open_artifact
        from fulldeck.engines.pytorch import PyTorchEngine

        return open_artifact(self.artifact) if self.artifact else PyTorchEngine(self.module)

    def run(self, inputs: Mapping[str, Array], batch: int = 256) -> Array:
        """The outputs of the current form for encoded `inputs`, computed `batch` rows at a time."""
        rows = len(next(iter(inputs.values())))
        parts = [
            self._engine.run({name: value[start : start + batch] for name, value in inputs.items()})
            for start in range(0, rows, batch)
        ]
        return np.concatenate([next(iter(part.values())) for part in parts])


def judged_rows(candidate: Candidate) -> int:
    """How many of the judged examples a conversion is compared on."""
    values = candidate.run(candidate.example(1)).size
    return max(1, min(MAX_ROWS, len(candidate.judged), MAX_VALUES // values))
