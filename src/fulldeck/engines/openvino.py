"""OpenVINO on the CPU: runs ONNX files as they are, in the precision that it is told."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

from fulldeck.engines.shapes import Range, any_size
from fulldeck.engines.signature import Signature
from fulldeck.engines.source import Settings, Source
from fulldeck.errors import BadInput, CannotAct

Array = npt.NDArray[Any]

_DEVICE = "CPU"
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""Without one OpenVINO computes in bf16 wherever the processor can, and says nothing. For int8 that is welcome."""


class OpenVinoEngine:
    """An ONNX file, compiled for latency in `precision`.

    Raises BadInput if the file cannot be loaded.
    """

    name = "openvino"

    def __init__(self, path: Path, *, precision: str = "fp32", threads: int = 0) -> None:
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if precision in _HINTS:
            settings["INFERENCE_PRECISION_HINT"] = _HINTS[precision]
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        try:
            read = core.read_model(path)
            self._model = core.compile_model(read, _DEVICE, settings)
        except RuntimeError as error:
            raise BadInput(f"OpenVINO cannot load {path.name}: {_reason(error)}") from error
        # Names of the model as it was read: compiling leaves any of a tensor's names in the first place.
        self.outputs = [one.any_name for one in read.outputs]
        self.signature = Signature(
            {
                one.node.friendly_name: (
                    np.dtype(one.element_type.to_dtype()).name,
                    _ranges(one.partial_shape),
                )
                for one in read.inputs
            }
        )
        self._requests = threading.local()  # a request belongs to one thread at a time

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name (batch first) to outputs by name.

        Raises BadInput where the values of the inputs are to blame, such as an index out of range.
        """
        self.signature.check(inputs)
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._model.create_infer_request()
        try:
            request.infer([inputs[name] for name in self.signature.inputs], share_inputs=True)
        except RuntimeError as error:
            raise BadInput(f"OpenVINO refused the input: {_reason(error)}") from error
        # Copies: the request's own arrays are overwritten by the thread's next call.
        return {
            name: np.array(request.get_output_tensor(place).data) for place, name in enumerate(self.outputs)
        }


def convert(source: Source, precision: str, folder: Path, settings: Settings) -> Path:
    """The ONNX file: of integers, else the one in fp32, if there is one, which OpenVINO computes in `precision`.

    Raises CannotAct if there is none, or if the processor cannot compute in `precision`.
    """
    if precision in ("bf16", "fp16"):
        able = openvino.Core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        if precision.upper() not in able:
            raise CannotAct(f"OpenVINO does not compute in {precision} on this processor")
    own = precision in ("int8", "int4") or "fp32" not in source.onnx
    return source.onnx_file(precision if own else "fp32", folder)


def load(path: Path, *, precision: str, threads: int) -> OpenVinoEngine:
    """The file, compiled for this machine."""
    return OpenVinoEngine(path, precision=precision, threads=threads)


def _ranges(shape: Any) -> tuple[Range, ...]:
    return tuple(
        Range(axis.get_length(), axis.get_length(), axis.get_length()) if axis.is_static else any_size()
        for axis in shape
    )


def _reason(error: RuntimeError) -> str:
    """The last line of an error that says more than where in the source it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or ["it does not say why"])[-1][:200]
