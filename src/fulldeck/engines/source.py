"""What a model is compiled from: the module itself, and the same model as ONNX files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fulldeck.data import Array
from fulldeck.engines.shapes import Shapes, all_fixed
from fulldeck.engines.signature import Signature
from fulldeck.errors import CannotAct

if TYPE_CHECKING:
    from torch import nn

WORKSPACE = 4096
"""MiB that TensorRT may use while it runs, as in the specification."""


@dataclass(frozen=True)
class Source:
    """A model in the forms that engines compile.

    `example` has a few rows of encoded inputs by name, the batch first; `shapes` are the sizes to compile for.
    `modules` and `onnx` are by precision; what is lower than fp32 there was made so on purpose. `calibration` are
    rows that int8 ranges are learnt from, where there is no int8 module.
    """

    example: Mapping[str, Array]
    shapes: Shapes
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    onnx: Mapping[str, Path] = field(default_factory=dict)
    calibration: Mapping[str, Array] | None = None
    output: str = "output"

    @property
    def signature(self) -> Signature:
        return Signature.of(self.example, self.shapes)

    def onnx_file(self, precision: str, folder: Path) -> Path:
        """The ONNX file of `precision`; with all axes fixed in it, where `shapes` fixes them.

        Raises CannotAct if there is none.
        """
        if precision not in self.onnx:
            raise CannotAct(f"there is no {precision} ONNX file of the model")
        path = self.onnx[precision]
        if not all_fixed(self.shapes):
            return path
        sizes = {name: [one.best for one in axes] for name, axes in self.shapes.items()}
        words = "_".join("x".join(map(str, size)) for size in sizes.values())
        fixed = folder / f"{path.stem}.{words}.onnx"
        _write_fixed(path, fixed, sizes)
        return fixed

    def module(self) -> nn.Module:
        """The fp32 module. Raises CannotAct if there is none."""
        if "fp32" not in self.modules:
            raise CannotAct("the fp32 module of the model is not at hand")
        return self.modules["fp32"]

    def inputs(self, rows: int | None = None) -> dict[str, Array]:
        """The example in the best sizes (or with so many rows), repeated where it is too small."""
        resized = {}
        for name, value in self.example.items():
            for place, axis in enumerate(self.shapes[name]):
                size = rows if rows is not None and place == 0 else axis.best
                value = value.take(np.arange(size) % value.shape[place], axis=place)
            resized[name] = np.ascontiguousarray(value)
        return resized


@dataclass(frozen=True)
class Settings:
    """How to compile: `workspace` in MiB (TensorRT), `tuning_trials` (TVM; 0 does not tune)."""

    workspace: int = WORKSPACE
    tuning_trials: int = 0


def _write_fixed(path: Path, out: Path, sizes: Mapping[str, list[int]]) -> None:
    """Write the ONNX file `path` to `out` with these sizes of its inputs."""
    import onnx

    from fulldeck.onnx_file import write_onnx

    model = onnx.load(path)
    for tensor in model.graph.input:
        for axis, size in zip(tensor.type.tensor_type.shape.dim, sizes[tensor.name], strict=True):
            axis.dim_value = size
    for tensor in model.graph.output:
        for axis in tensor.type.tensor_type.shape.dim:
            if axis.HasField("dim_param"):
                axis.Clear()
    del model.graph.value_info[:]
    write_onnx(model, out)
