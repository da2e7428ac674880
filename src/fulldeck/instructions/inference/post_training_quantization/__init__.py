"""Quantise the trained model to INT8 without training: a quarter of the size, often faster.

Static: weights and activations are INT8, with ranges learnt from a small calibration set that is drawn
from the training data, every class in its share. Dynamic: activations are quantised anew in every call;
no calibration, less speed. `weights`: only those, with 8 or 4 bits. Weights have one scale per channel (or for
32 of them). Where that costs more of the metric than `metric_drop`, the layers that change the outputs most stay in
float, as few as it takes, and `artifacts/sensitivity.json` has what each one changes.

`backend: onnxruntime` and `nncf` work on the ONNX file; `torch` on the module, before its export (torchao's
PT2E); `auto` tries each quantiser of the file in each engine of this machine that runs it, and takes the fastest
form that keeps the metric, if it is faster than what it replaces. `fulldeck compile` compares those with native code.

Use when: size or latency on a CPU matters; static for convolutions, dynamic for transformers, weights for what
waits for memory: large models, one row at a time.
Avoid when: less than half a point of accuracy is too much to lose and quantisation-aware training can be
afforded; when the CPU has no INT8 dot product (x86 before VNNI).
Reference: Jacob et al. 2017, arXiv:1712.05877; Krishnamoorthi 2018, arXiv:1806.08342; Xiao et al. 2022,
arXiv:2211.10438 (smoothing).

Example:
    >>> import tempfile, numpy as np, onnx
    >>> from pathlib import Path
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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from pydantic import model_validator
from torch import nn

from fulldeck.candidate import Artifact, Candidate, Tolerance
from fulldeck.data import Array
from fulldeck.errors import CannotAct, extra
from fulldeck.files import write_json
from fulldeck.instruction import Evidence, Instruction, Prediction, instruction, param
from fulldeck.instructions.inference.post_training_quantization.choice import fastest_form, forms_to_try
from fulldeck.instructions.inference.post_training_quantization.forms import Form, forms_of_file
from fulldeck.instructions.inference.post_training_quantization.onnx_file import (
    Method,
    Mode,
    quantizable_layers,
    quantize_onnx,
    quantize_onnx_by_nncf,
)
from fulldeck.instructions.inference.post_training_quantization.sensitivity import layer_sensitivity
from fulldeck.logs import quiet
from fulldeck.quantization.budget import Losses, fewest_spared
from fulldeck.quantization.calibration import calibration_rows
from fulldeck.training.batch import Tensors

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from fulldeck.data import Data
    from fulldeck.diagnosis.findings import Findings

__all__ = [
    "PostTrainingQuantization",
    "layer_sensitivity",
    "quantizable_layers",
    "quantize_module",
    "quantize_onnx",
    "quantize_onnx_by_nncf",
]

SENSITIVITY_ROWS = 64
"""Calibration rows that are enough to rank layers."""
_QUANTISED = frozenset({"Linear", "Conv1d", "Conv2d", "Conv3d"})
_STATIC_ONLY = ("nncf", "torch")


@instruction(
    28,
    stage="inference",
    goals={"fast", "small", "balanced"},
    touches={"dtype", "artifact"},
    evidence=Evidence(
        workload="digits",
        metric="artifact_bytes",
        expect="<= 0.286x",
        cost={"accuracy": ">= -0.005"},
        beside=("onnx_export",),
    ),
)
class PostTrainingQuantization(Instruction):
    mode: Mode = param(
        "static",
        search=("static", "dynamic", "weights"),
        doc="static: ranges of activations are calibrated beforehand; dynamic: found anew in every call; weights: "
        "activations stay in float.",
    )
    bit_width: Literal[8, 4] = param(8, doc="Bits of a weight; 4 with mode weights only.")
    backend: Literal["onnxruntime", "nncf", "torch", "auto"] = param(
        "onnxruntime",
        search=("onnxruntime", "nncf"),
        doc="What quantises, and so what is quantised; auto: whatever is measured to be fastest.",
    )
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
    smooth: float = param(
        0.0,
        ge=0,
        le=1,
        doc="Share of the outliers of activations that moves into the weights (static; 0.5 is usual).",
    )
    keep: tuple[str, ...] = param((), doc="Layers that stay in float, by name.")
    mixed: bool = param(True, doc="Leave the most sensitive layers in float where the metric asks for it.")
    sensitivity: bool = param(False, doc="Write what each layer changes, also where nothing asks for it.")
    seed: int = param(0, ge=0, doc="Another number draws other calibration samples.")

    @model_validator(mode="after")
    def _some_engine_can(self) -> Self:
        name = self.spoken_name()
        if self.bit_width == 4 and self.mode != "weights":
            raise ValueError(
                f"{name}.bit_width 4 needs mode: weights; no engine has kernels for {self.mode} quantisation with 4 "
                "bits"
            )
        if self.backend in _STATIC_ONLY and self.mode != "static":
            raise ValueError(
                f"{name}.backend {self.backend} quantises statically; leave mode {self.mode} out"
            )
        if self.backend == "auto" and self.mode != "static":
            raise ValueError(f"{name}.backend auto tries every mode; leave mode {self.mode} out")
        if self.backend == "torch" and self.method == "percentile":
            raise ValueError(f"{name}.backend torch has no method percentile; write entropy or minmax")
        return self

    def order(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        if self.backend == "torch":
            return {}, {
                "onnx_export": "torchao quantises the module, and what is exported must have the integers"
            }
        return {"onnx_export": "the exported file is quantised"}, {}

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
        if self.backend == "torch":
            if artifact is not None:
                raise CannotAct("the module has been exported already; write backend: onnxruntime")
            return self._of_module(candidate)
        if artifact is None or artifact.kind != "onnx":
            raise CannotAct("there is no ONNX file to quantise; add onnx_export")
        if artifact.precision in ("int8", "int4"):
            raise CannotAct(
                f"{artifact.path.name} is {artifact.precision} already; leave one quantisation out"
            )
        calibration = self._calibration(candidate) if self.mode == "static" else {}
        if self.backend == "auto":
            return self._fastest(candidate, artifact, calibration)
        how: dict[str, Any] = {"mode": self.mode, "method": self.method, "bit_width": self.bit_width}

        def errors() -> dict[str, float]:
            # Without calibration nothing is taken from training rows, whose privacy may have been promised.
            rows = calibration or candidate.example(SENSITIVITY_ROWS)
            return layer_sensitivity(artifact.path, _some(rows), **how)

        with forms_of_file(
            candidate, artifact, calibration, backend=self.backend, smooth=self.smooth, **how
        ) as form:
            return self._within_budget(candidate, form, errors)

    def _of_module(self, candidate: Candidate) -> Candidate:
        rows = {name: torch.from_numpy(value) for name, value in self._calibration(candidate).items()}
        inputs: Tensors = next(iter(rows.values())) if len(rows) == 1 else rows
        method: Literal["minmax", "entropy"] = "entropy" if self.method == "entropy" else "minmax"

        def form(keep: Sequence[str]) -> Candidate:
            module = quantize_module(candidate.module, inputs, method=method, keep=keep)
            return replace(candidate, module=module, precision="int8")

        def errors() -> dict[str, float]:
            from fulldeck.instructions.inference.post_training_quantization.module import errors_by_module

            return errors_by_module(candidate.module, _some(inputs))

        return self._within_budget(candidate, form, errors)

    def _within_budget(
        self, candidate: Candidate, form: Form, errors: Callable[[], dict[str, float]]
    ) -> Candidate:
        """The form with the fewest layers in float that loses no more than `metric_drop`."""
        losses, made = Losses(candidate), form(self.keep)
        over = self.mixed and losses.of(made) > self.metric_drop
        if not (over or self.sensitivity):
            return made
        found, kept = errors(), list(self.keep)
        if over:
            layers = [name for name in found if name not in kept]
            spared = fewest_spared(layers, lambda some: losses.of(form((*kept, *some))) <= self.metric_drop)
            kept += spared or []  # if that was not to be had, the gate will say what is lost
            made = form(kept)
            if spared:
                made = made.telling(
                    f"{self.card.name} leaves {len(spared)} of {len(found)} layers in float to keep the metric: "
                    f"{', '.join(spared)}"
                )
        write_json(candidate.folder / "sensitivity.json", {"layers": found, "kept": kept})
        return made

    def _fastest(
        self, candidate: Candidate, artifact: Artifact, calibration: Mapping[str, Array]
    ) -> Candidate:
        losses = Losses(candidate)
        forms = forms_to_try(candidate, artifact, calibration, self.keep)
        best, told = fastest_form(candidate, forms, lambda form: losses.of(form) <= self.metric_drop)
        if best is candidate:
            raise CannotAct(f"no INT8 form that keeps the metric is faster here ({told}); name a backend")
        return best.telling(f"{self.card.name} took the fastest: {told}")

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


def quantize_module(
    model: nn.Module,
    rows: Tensors,
    *,
    method: Literal["minmax", "entropy"] = "minmax",
    keep: Sequence[str] = (),
) -> GraphModule:
    """`model` with int8 weights and activations, on the CPU: to be exported, or compiled by torch.

    `rows` are calibration inputs (two or more). Modules in `keep`, by qualified name, stay in float. `model` is not
    changed. Raises BadInput without torchao or for an unknown name, CannotAct where the model cannot be captured as
    a graph, or has no linear layer or convolution.
    """
    with quiet():
        extra("torchao.quantization.pt2e", "int8")
    from fulldeck.instructions.inference.post_training_quantization.module import integer_module

    return integer_module(model, rows, method, tuple(keep))


def _some(rows: Any) -> Any:
    """The first SENSITIVITY_ROWS of one tensor or of all inputs."""
    if isinstance(rows, Mapping):
        return {name: value[:SENSITIVITY_ROWS] for name, value in rows.items()}
    return rows[:SENSITIVITY_ROWS]
