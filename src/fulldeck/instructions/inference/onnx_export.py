"""Export the model to one ONNX file that takes any batch size, and check it against the module.

The file is written only after its outputs have been compared with the module's at batch 1, 3 and 17: an
export that bakes in the batch size, or computes something else, stops here. Source paths and stack traces
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

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fulldeck.candidate import Artifact, Candidate
from fulldeck.data import Array
from fulldeck.engines import open_onnx
from fulldeck.engines.pytorch import PyTorchEngine
from fulldeck.errors import CannotAct, RunFailed
from fulldeck.files import write_with
from fulldeck.instruction import GOALS, Evidence, Instruction, Prediction, instruction, param
from fulldeck.quantization.onnx_integers import (
    PACKED_OPSET,
    fits_in_four_bits,
    float_layers_read_floats,
    integer_biases,
    pack_four_bits,
)

if TYPE_CHECKING:
    from onnx import ModelProto

    from fulldeck.diagnosis.findings import Findings

OUTPUT = "output"
BATCHES = (1, 3, 17)
"""Batch sizes at which an export is compared with the module: none is the one that it was traced with."""
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
            max_difference=max(self.max_difference, _ROUNDING.get(candidate.precision, 0)),
            metadata=facts,
        )
        return candidate.with_artifact(Artifact(path, "onnx", candidate.precision, "onnxruntime"))


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
    max_difference: float = 1e-4,
    metadata: Mapping[str, str] | None = None,
) -> Export:
    """Write `model` to `path` with a free batch size, checked against the model on the `example` rows.

    `example` is one tensor, or the inputs by the names of forward's parameters; the batch comes first. The
    file's inputs have these names (`input` for one tensor), its output is `output`, its first axis `batch`.
    `metadata` goes into the file. The model itself is not changed.

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
    proto = _convert(module, inputs, opset)
    _clean(proto, metadata or {})
    integer_biases(proto)
    float_layers_read_floats(proto)
    if four_bits:
        pack_four_bits(proto)
    differences: dict[int, float] = {}

    def write_checked(temporary: Path) -> None:
        temporary.write_bytes(proto.SerializeToString())
        differences.update(_compare(module, temporary, inputs, max_difference))

    write_with(path, write_checked)
    return Export(path, differences)


def _convert(module: nn.Module, inputs: Mapping[str, Array], opset: int) -> ModelProto:
    # Two rows: a batch of one would be taken for a constant.
    tensors = {
        name: torch.from_numpy(np.resize(value, (2, *value.shape[1:]))) for name, value in inputs.items()
    }
    single = next(iter(tensors.values())) if len(tensors) == 1 else None
    with torch.inference_mode():
        output = module(single) if single is not None else module(**tensors)
    if not isinstance(output, Tensor):
        raise CannotAct(
            f"the model must return one tensor to be exported, and returns {type(output).__name__}"
        )
    batch = {0: torch.export.Dim("batch")}
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                (single,) if single is not None else (),
                kwargs=None if single is not None else tensors,
                input_names=list(tensors),
                output_names=[OUTPUT],
                dynamic_shapes=(batch,) if single is not None else dict.fromkeys(tensors, batch),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise CannotAct(f"the model cannot be exported to ONNX: {_cause(error)}") from error
    assert program is not None
    proto: ModelProto = program.model_proto
    return proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and dumps of the graph from the console."""
    loggers = [logging.getLogger("torch.onnx"), logging.getLogger("torch.fx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _cause(error: BaseException) -> str:
    """The first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _clean(proto: ModelProto, metadata: Mapping[str, str]) -> None:
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)


def _compare(
    module: nn.Module, path: Path, inputs: Mapping[str, Array], max_difference: float
) -> dict[int, float]:
    """The largest difference at each of BATCHES; raises RunFailed if one is over it."""
    import onnx

    onnx.checker.check_model(str(path))
    reference, exported = PyTorchEngine(module, OUTPUT), open_onnx(path)
    differences = {}
    for batch in BATCHES:
        rows: dict[str, Any] = {
            name: value[np.resize(np.arange(len(value)), batch)] for name, value in inputs.items()
        }
        try:
            expected = reference.run(rows)[OUTPUT]
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise CannotAct(f"the model itself does not run at batch {batch}: {reason}") from error
        try:
            got = exported.run(rows)[OUTPUT]
        except Exception as error:  # ONNX Runtime's errors have no common base class but Exception
            reason = str(error).splitlines()[0]
            raise RunFailed(f"the ONNX export does not run at batch {batch}: {reason}") from error
        if got.shape != expected.shape:
            raise RunFailed(
                f"the ONNX export gives shape {list(got.shape)} at batch {batch}, the module "
                f"{list(expected.shape)}; its forward pass may fix the batch size"
            )
        differences[batch] = float(np.abs(got.astype(np.float64) - expected).max())
        allowed = max_difference * max(1.0, float(np.abs(expected).max()))
        if not differences[batch] <= allowed:
            raise RunFailed(
                f"the ONNX export differs from the module by {differences[batch]:.2g} at batch {batch}, "
                f"and {allowed:.2g} is allowed; set max_difference if that is acceptable"
            )
    return differences
