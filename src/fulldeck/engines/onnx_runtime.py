"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from fulldeck.errors import BadInput

Array = npt.NDArray[Any]


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

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name (batch first) to outputs by name.

        Raises BadInput where the values of the inputs are to blame, such as an index out of range.
        """
        try:
            results = self.session.run(self.outputs, dict(inputs))
        except InvalidArgument as error:
            raise BadInput(f"ONNX Runtime refused the input: {str(error).splitlines()[0]}") from error
        return dict(zip(self.outputs, results, strict=True))
