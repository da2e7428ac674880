"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from fulldeck.engines.shapes import Range, any_size
from fulldeck.engines.signature import Signature
from fulldeck.engines.source import Settings, Source
from fulldeck.errors import BadInput

Array = npt.NDArray[Any]

_DTYPES = {"float": "float32", "double": "float64"}
"""ONNX Runtime's names of types where they are not NumPy's."""


class OnnxRuntimeEngine:
    """An ONNX file in an inference session.

    Raises BadInput if the file cannot be loaded.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        if threads:
            # Who gives a number shares the cores; threads that spin between calls would take them all.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base class but Exception
            raise BadInput(f"ONNX Runtime cannot load {path.name}: {str(error).splitlines()[0]}") from error
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.signature = Signature(
            {one.name: (_dtype(one.type), _ranges(one.shape)) for one in self.session.get_inputs()}
        )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name (batch first) to outputs by name.

        Raises BadInput where the values of the inputs are to blame, such as an index out of range.
        """
        self.signature.check(inputs)
        try:
            results = self.session.run(self.outputs, dict(inputs))
        except (Fail, InvalidArgument, RuntimeException) as error:
            raise BadInput(f"ONNX Runtime refused the input: {str(error).splitlines()[0]}") from error
        return dict(zip(self.outputs, results, strict=True))


def convert(source: Source, precision: str, folder: Path, settings: Settings) -> Path:
    """The ONNX file of `precision`, as it is. Raises CannotAct if there is none."""
    return source.onnx_file(precision, folder)


def load(path: Path, *, precision: str, threads: int) -> OnnxRuntimeEngine:
    """A session of the file."""
    return OnnxRuntimeEngine(path, threads=threads)


def _dtype(kind: str) -> str:
    """`tensor(float)` to `float32`."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return str(np.dtype(_DTYPES.get(name, name)))


def _ranges(shape: list[int | str | None]) -> tuple[Range, ...]:
    return tuple(Range(size, size, size) if isinstance(size, int) else any_size() for size in shape)
