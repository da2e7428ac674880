"""Quantise the trained model to INT8 without training: a quarter of the size, often faster.

Static: weights and activations are INT8, with ranges learnt from a small calibration set that is drawn
from the training data, every class in its share. Dynamic: activations are quantised anew in every call;
no calibration, less speed. Weights have one scale per channel. Works on the ONNX file.

Use when: size or latency on a CPU matters; static for convolutions, dynamic for transformers.
Avoid when: less than half a point of accuracy is too much to lose and quantisation-aware training can be
afforded; when the CPU has no INT8 dot product (x86 before VNNI).
Reference: Jacob et al. 2017, arXiv:1712.05877; Krishnamoorthi 2018, arXiv:1806.08342.

Example:
    >>> import tempfile, onnx
    >>> from onnx import helper, numpy_helper
    >>> rng = np.random.default_rng(0)
    >>> weight = numpy_helper.from_array(rng.normal(size=(64, 64)).astype(np.float32), "weight")
    >>> tensors = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", 64]) for n in "xy"]
    >>> node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    >>> graph = helper.make_graph([node], "g", tensors[:1], tensors[1:], [weight])
    >>> model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = Path(name)
    ...     onnx.save(model, folder / "model.onnx")
    ...     calibration = {"x": rng.normal(size=(32, 64)).astype(np.float32)}
    ...     small = quantize_onnx(folder / "model.onnx", folder / "model.int8.onnx", calibration)
    ...     small.stat().st_size < (folder / "model.onnx").stat().st_size / 2
    True
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from fulldeck.calibration import calibration_rows
from fulldeck.candidate import Artifact, Candidate, Tolerance
from fulldeck.data import Array
from fulldeck.errors import BadInput, CannotAct
from fulldeck.files import write_bytes
from fulldeck.instruction import Evidence, Instruction, Prediction, instruction, param

if TYPE_CHECKING:
    from onnx import ModelProto

    from fulldeck.data import Data
    from fulldeck.diagnosis.findings import Findings

Mode = Literal["static", "dynamic"]
Method = Literal["minmax", "entropy", "percentile"]

MAX_BATCH = 32
_QUANTISED = frozenset({"Linear", "Conv1d", "Conv2d", "Conv3d"})
_METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
_ORDER: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "onnxruntime": ({"onnx_export": "ONNX Runtime quantises the exported file"}, {}),
}
"""By backend: what it goes after and before. One that quantises the module goes before the export."""


@instruction(
    28,
    stage="inference",
    goals={"fast", "small", "balanced"},
    touches={"dtype", "artifact"},
    evidence=Evidence(
        workload="digits", metric="artifact_bytes", expect="<= 0.286x", cost={"accuracy": ">= -0.005"}
    ),
)
class PostTrainingQuantization(Instruction):
    mode: Mode = param(
        "static",
        search=("static", "dynamic"),
        doc="static: ranges of activations are calibrated beforehand; dynamic: found anew in every call.",
    )
    backend: Literal["onnxruntime"] = param("onnxruntime", doc="What quantises, and so what is quantised.")
    calibration_samples: int = param(
        256, ge=8, le=10_000, doc="Training examples that the ranges are learnt from (static)."
    )
    method: Method = param(
        "minmax",
        search=("minmax", "entropy", "percentile"),
        doc="Range of an activation (static): its extremes, the least loss of information, or 99.999 %.",
    )
    metric_drop: float = param(
        0.005, ge=0, le=1, doc="What the metric may lose, in its own unit (0.005: half a point of accuracy)."
    )
    seed: int = param(0, ge=0, doc="Another number draws other calibration samples.")

    def order(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        return _ORDER[self.backend]

    @classmethod
    def suggest(cls, data: Data) -> tuple[Self, str]:
        """Dynamic for texts, whose model is a transformer."""
        if data.kind in ("text", "tokens"):
            return cls(mode="dynamic"), "texts are read by a transformer, which static ranges suit badly"
        return cls(), ""

    @classmethod
    def predict(cls, findings: Findings) -> Prediction | None:
        """A quarter of the bytes of what it quantises: linear and convolution layers."""
        layers = [one for one in findings.layers if one.kind in _QUANTISED]
        if not layers or not findings.model_bytes:
            return None
        share = sum(one.bytes for one in layers) / findings.model_bytes
        tried = [one for one in layers if one.error]
        worst = max(tried, key=lambda one: one.error["int8"], default=None)
        said = (
            f"; the most sensitive, {worst.name}, changes the outputs by {worst.error['int8']:.1%}"
            if worst
            else ""
        )
        return Prediction(
            "artifact_bytes",
            1 - 0.75 * share,
            f"linear and convolution layers are {share:.0%} of the model's bytes, and int8 is a quarter{said}",
            "some of the metric, which its tolerance caps; the model must be exported first",
        )

    def tolerance(self) -> Tolerance:
        return Tolerance(metric_drop=self.metric_drop)

    def optimise(self, candidate: Candidate) -> Candidate:
        artifact = candidate.artifact
        if artifact is None or artifact.kind != "onnx":
            raise CannotAct("there is no ONNX file to quantise; add onnx_export")
        if artifact.precision == "int8":
            raise CannotAct(f"{artifact.path.name} is int8 already; leave one quantisation out")
        path = candidate.folder / "model.int8.onnx"
        calibration = self._calibration(candidate) if self.mode == "static" else None
        quantize_onnx(artifact.path, path, calibration, mode=self.mode, method=self.method)
        return candidate.with_artifact(Artifact(path, "onnx", "int8", artifact.engine))

    def _calibration(self, candidate: Candidate) -> dict[str, Array]:
        data = candidate.data
        wanted = self.calibration_samples
        if "calibration_samples" not in self.model_fields_set:
            wanted = min(wanted, len(data.train))
        rows = calibration_rows(
            data.train.targets,
            wanted,
            classes=data.task == "classification",
            seed=self.seed,
        )
        return candidate.encoded(data.train.take(rows))


def quantize_onnx(
    path: Path | str,
    out: Path | str,
    calibration: Mapping[str, Array] | None = None,
    *,
    mode: Mode = "static",
    method: Method = "minmax",
) -> Path:
    """Write an INT8 form of the ONNX file `path` to `out`, and return `out`.

    `calibration` has the model's inputs by name, N rows each; static quantisation needs it, dynamic does
    without. Weights become int8 with one scale per output channel, activations uint8: the pair that x86
    dot products (VNNI) take. Metadata of the file is kept.

    Raises BadInput if static quantisation has no calibration rows.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    out = Path(out)
    with tempfile.TemporaryDirectory() as name, _quiet():
        prepared, quantised = Path(name) / "prepared.onnx", Path(name) / "quantised.onnx"
        quant_pre_process(Path(path), prepared, skip_symbolic_shape=True)
        if mode == "dynamic":
            quantize_dynamic(prepared, quantised, per_channel=True, weight_type=QuantType.QInt8)
        else:
            quantize_static(
                prepared,
                quantised,
                _reader(calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
                calibrate_method=CalibrationMethod[_METHODS[method]],
            )
        model = onnx.load(quantised)
    _slim(model, onnx.load(path, load_external_data=False))
    write_bytes(out, model.SerializeToString())
    return out


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what ONNX Runtime's tools print and log (on the root logger) from the console."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


def _reader(calibration: Mapping[str, Array] | None) -> object:
    """The rows in batches of one size: the histograms of ONNX Runtime cannot take a ragged last one."""
    from onnxruntime.quantization import CalibrationDataReader

    count = len(next(iter(calibration.values()))) if calibration else 0
    if calibration is None or not count:
        raise BadInput("static quantisation needs calibration rows; give some, or choose mode dynamic")
    size = next(size for size in range(MAX_BATCH, 0, -1) if count % size == 0)
    batches: Iterator[dict[str, Array]] = (
        {name: np.ascontiguousarray(rows[start : start + size]) for name, rows in calibration.items()}
        for start in range(0, count, size)
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Array] | None:
            return next(batches, None)

    return Reader()


def _slim(model: ModelProto, original: ModelProto) -> None:
    """Take out what no engine needs: shapes of inner tensors, unused operator sets, marks of the tools."""
    del model.graph.value_info[:]
    used = {"", "ai.onnx"} | {node.domain for node in (*model.graph.node, *model.functions)}
    sets = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(sets)
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
