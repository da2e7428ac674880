"""Export the model to one ONNX file that takes any batch size, and check it against the module.

The file is written only after its outputs have been compared with the module's at batch 1, 3 and 17 (and at several
lengths, where `dynamic: length` leaves that of tokens free): an export that bakes in a size, or computes something
else, stops here. Weights are called as in the module. Source paths and stack traces
that the exporter leaves in the file are taken out.

Use when: the model is to run in ONNX Runtime, or anywhere without Python.
Avoid when: its forward pass depends on values in the data (branches, loops); export a part that does not.
Reference: ONNX, onnx.ai/onnx/repo-docs/IR.html; torch.onnx.export with dynamo=True.

Example:
    >>> import tempfile, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export = export_onnx(model, torch.randn(20, 4), Path(folder) / "model.onnx")
    >>> sorted(export.differences)
    [1, 3, 17]
    >>> max(export.differences.values()) < 1e-4
    True
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from fulldeck.candidate import Artifact, Candidate
from fulldeck.data import Array
from fulldeck.engines import open_onnx
from fulldeck.errors import RunFailed
from fulldeck.instruction import GOALS, Evidence, Instruction, Prediction, instruction, param
from fulldeck.instructions.inference.onnx_export.comparison import BATCHES, compare
from fulldeck.instructions.inference.onnx_export.conversion import Dynamic, clean, convert
from fulldeck.instructions.inference.onnx_export.preprocessing import embed_preprocessing, raw_inputs
from fulldeck.onnx_file import write_onnx
from fulldeck.quantization.onnx_integers import (
    PACKED_OPSET,
    fits_in_four_bits,
    float_layers_read_floats,
    integer_biases,
    pack_four_bits,
)

if TYPE_CHECKING:
    from fulldeck.diagnosis.findings import Findings

__all__ = ["Export", "OnnxExport", "embed_preprocessing", "export_onnx"]

COMPARED = 64
"""Validation rows on which the graph with its preprocessing is compared."""
_ROUNDING = {"int8": 0.05, "int4": 0.05, "fp16": 0.01}
"""Difference that is allowed by precision: what lies on the edge of two numbers may be rounded to either."""
_LAUNCHING, _LEFT = 0.25, 0.1
"""Share of a pass that must be launching before less of it is predicted; what a session's own call leaves."""


@instruction(
    32,
    stage="inference",
    goals=GOALS,
    touches={"export"},
    evidence=Evidence(workload="digits", metric="agreement", expect=">= 1.0"),
)
class OnnxExport(Instruction):
    opset: int = param(20, ge=18, le=23, doc="Version of the ONNX operator set.")
    dynamic: Dynamic = param(
        "batch", doc="Which sizes are free: the batch; length: that of tokens too, up to the example's."
    )
    preprocessing: bool = param(
        False, doc="Also write model.raw.onnx, which takes raw values: pixels, or the columns of a table."
    )
    max_difference: float = param(
        1e-4, gt=0, doc="Largest difference from the module, relative to the largest output (if over 1)."
    )

    @classmethod
    def predict(cls, findings: Findings) -> Prediction | None:
        """ONNX Runtime walks the graph without Python, so what starting operators takes falls away."""
        launching = findings.bounds.get("launch", 0.0)
        if findings.kind != "inference" or launching < _LAUNCHING:
            return None
        return Prediction(
            "latency",
            max(1 - launching, _LEFT),
            f"{launching:.0%} of a forward pass of one row is starting operators from Python, which ONNX Runtime "
            f"does without; it can fuse {len(findings.chains)} chains besides",
            "a second form of the model to ship, checked against the first",
            eases=("launch",),
        )

    def optimise(self, candidate: Candidate) -> Candidate:
        path = candidate.folder / "model.onnx"
        data = candidate.data
        facts = {
            "name": candidate.name,
            "task": data.task,
            "classes": json.dumps(list(data.classes)),
            "fulldeck": version("fulldeck"),
            "torch": version("torch"),
        }
        export_onnx(
            candidate.module,
            candidate.example(max(BATCHES)),
            path,
            opset=self.opset,
            dynamic=self.dynamic,
            max_difference=max(self.max_difference, _ROUNDING.get(candidate.precision, 0)),
            metadata=facts,
        )
        if self.preprocessing:
            candidate = self._with_preprocessing(candidate, path)
        return candidate.with_artifact(Artifact(path, "onnx", candidate.precision, "onnxruntime"))

    def _with_preprocessing(self, candidate: Candidate, path: Path) -> Candidate:
        """Write the file that takes raw values; raises RunFailed if it does not answer as the other does."""
        encoder = candidate.data.encoder
        assert encoder is not None, "a candidate's data has been encoded"
        raw = embed_preprocessing(path, encoder, path.with_name("model.raw.onnx"))
        examples = candidate.judged.take(np.arange(min(COMPARED, len(candidate.judged))))
        (expected,) = open_onnx(path).run(candidate.encoded(examples)).values()
        (got,) = open_onnx(raw).run(raw_inputs(encoder, examples.inputs)).values()
        difference = float(np.abs(got - expected).max())
        if not difference <= self.max_difference * max(1.0, float(np.abs(expected).max())):
            raw.unlink()
            raise RunFailed(f"with its preprocessing in the graph the model differs by {difference:.2g}")
        return candidate.telling(f"{raw.name} takes raw values, and is for use without fulldeck")


@dataclass(frozen=True)
class Export:
    """An ONNX file, and the largest absolute difference of its outputs from the module's by batch size."""

    path: Path
    differences: Mapping[int, float]


def export_onnx(
    model: nn.Module,
    example: Tensor | Mapping[str, Tensor | Array],
    path: Path | str,
    *,
    opset: int = 20,
    dynamic: Dynamic = "batch",
    max_difference: float = 1e-4,
    metadata: Mapping[str, str] | None = None,
) -> Export:
    """Write `model` to `path` with a free batch size, checked against the model on the `example` rows.

    `example` is one tensor, or the inputs by the names of forward's parameters; the batch comes first. The
    file's inputs have these names (`input` for one tensor), its output is `output`, its first axis `batch`.
    With `dynamic="length"` the second axis of tokens (integers) is free too, up to that of the example.
    `metadata` goes into the file. Weights beyond 2 GB lie beside it, in `NAME.data`. The model itself is not changed.

    Raises CannotAct if the model cannot be exported or does not run at these batch sizes, RunFailed if the
    file's outputs differ from the model's by more than `max_difference` times the largest output (at least
    1); nothing is written then.
    """
    path = Path(path)
    tensors = {"input": example} if isinstance(example, Tensor) else dict(example)
    inputs = {name: np.asarray(torch.as_tensor(value).cpu()) for name, value in tensors.items()}
    module = copy.deepcopy(model).cpu().eval()
    if four_bits := any(
        t.dtype == torch.int8 and fits_in_four_bits(t.numpy()) for t in module.state_dict().values()
    ):
        opset = max(opset, PACKED_OPSET)
    proto = convert(module, inputs, opset, dynamic)
    clean(proto, metadata or {})
    integer_biases(proto)
    float_layers_read_floats(proto)
    if four_bits:
        pack_four_bits(proto)
    differences: dict[int, float] = {}

    def check(written: Path) -> None:
        differences.update(compare(module, written, inputs, max_difference, dynamic))

    write_onnx(proto, path, check)
    return Export(path, differences)
