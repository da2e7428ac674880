"""What a model is compiled from: the module itself, and the same model as ONNX files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

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
    `onnx` are files by precision. `calibration` are rows that int8 ranges are learnt from.
    """

    example: Mapping[str, Array]
    shapes: Shapes
    module: nn.Module | None = None
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

    def torch_module(self) -> nn.Module:
        """The module. Raises CannotAct if there is none."""
        if self.module is None:
            raise CannotAct("the PyTorch module of the model is not at hand")
        return self.module


@dataclass(frozen=True)
class Settings:
    """How to compile: `workspace` in MiB (TensorRT), `tuning_trials` (TVM; 0 does not tune)."""

    workspace: int = WORKSPACE
    tuning_trials: int = 0


def _write_fixed(path: Path, out: Path, sizes: Mapping[str, list[int]]) -> None:
    """Write the ONNX file `path` to `out` with these sizes of its inputs."""
    import onnx

    from fulldeck.files import write_bytes

    model = onnx.load(path)
    for tensor in model.graph.input:
        for axis, size in zip(tensor.type.tensor_type.shape.dim, sizes[tensor.name], strict=True):
            axis.dim_value = size
    for tensor in model.graph.output:
        for axis in tensor.type.tensor_type.shape.dim:
            if axis.HasField("dim_param"):
                axis.Clear()
    del model.graph.value_info[:]
    write_bytes(out, model.SerializeToString())
