"""The Open Inference Protocol, version 2, over REST: JSON tensors and the binary tensor extension.

Reference: https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
and Triton's extension_binary_data.md.
"""

from __future__ import annotations

from array import array as typed_array
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import orjson

from fulldeck.errors import BadInput, closest
from fulldeck.package import ServiceFile, TensorSpec
from fulldeck.serving.http import Refusal, Response
from fulldeck.serving.wire import Array, Tensors

DATATYPES: dict[str, npt.DTypeLike] = {
    "BOOL": np.bool_,
    **{f"UINT{bits}": f"u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": f"i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"f{bits // 8}" for bits in (16, 32, 64)},
}
"""The protocol's names of types, and NumPy's."""
TYPE_CODES = {
    **{"BOOL": "B", "FP16": "f", "FP32": "f", "FP64": "d"},
    **{"INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q"},
    **{"UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q"},
}
"""The protocol's names of types, and those of the standard library's `array` that take their numbers."""
NAMES = {np.dtype(dtype): name for name, dtype in DATATYPES.items()}
HEADER_LENGTH = b"inference-header-content-length"


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A decoded request: tensors by name, and what the client wants back."""

    inputs: Tensors
    outputs: Mapping[str, bool]
    """Wanted output to whether it is wanted in binary form."""
    id: str | None
    timeout: float | None
    """Seconds that the client is willing to wait."""


class InferenceCodec:
    """Requests for one model to tensors, tensors to answers.

    Raises BadInput if the model has a type that the protocol has not; `decode` raises Refusal (400).
    """

    def __init__(self, service: ServiceFile, max_batch: int) -> None:
        self.service = service
        self.max_batch = max_batch
        for spec in (*service.inputs, *service.outputs):
            if spec.datatype not in DATATYPES:
                raise BadInput(
                    f"tensor {spec.name} has datatype {spec.datatype}; there is {', '.join(DATATYPES)}"
                )
        self._inputs = {spec.name: (spec, np.dtype(DATATYPES[spec.datatype])) for spec in service.inputs}
        self.outputs = [spec.name for spec in service.outputs]

    def decode(self, body: bytes, header_length: bytes | None = None) -> InferenceRequest:
        """Read a request's body; `header_length` is the header Inference-Header-Content-Length."""
        size = len(body)
        if header_length:
            if not header_length.isdigit() or len(header_length) > 18 or int(header_length) > size:
                refuse(f"Inference-Header-Content-Length must be a number up to {size}")
            size = int(header_length)
        content = parse_json(body[:size])
        given = content.get("inputs")
        if not isinstance(given, list) or not given:
            refuse('"inputs" must be a list of tensors')
        inputs: Tensors = {}
        position = size
        for tensor in given:
            if not isinstance(tensor, dict):
                refuse('each of "inputs" must be an object with name, shape, datatype and data')
            spec, dtype, shape = self.declared(*map(tensor.get, ("name", "datatype", "shape")))
            parameters = _mapping(tensor, "parameters")
            if "binary_data_size" in parameters:
                end = position + _size(parameters["binary_data_size"], spec.name)
                inputs[spec.name] = from_bytes(body[position:end], spec.name, dtype, shape)
                position = end
            else:
                inputs[spec.name] = from_numbers(tensor.get("data"), spec, dtype, shape)
        if position != len(body):
            refuse(f"{len(body) - position} bytes of the body belong to no tensor")
        self.check(inputs)
        return InferenceRequest(inputs, self._wanted(content), _id(content), _timeout(content))

    def encode(self, request: InferenceRequest, outputs: Tensors) -> Response:
        """The answer with the wanted outputs. Raises Refusal (422) if JSON cannot hold them."""
        described: list[dict[str, Any]] = []
        binary: list[bytes] = []
        for name, wants_binary in request.outputs.items():
            array = outputs[name]
            entry: dict[str, Any] = {"name": name, "datatype": NAMES[array.dtype], "shape": array.shape}
            if wants_binary:
                binary.append(array.tobytes())
                entry["parameters"] = {"binary_data_size": len(binary[-1])}
            else:
                entry["data"] = finite(array).ravel().tolist()
            described.append(entry)
        content: dict[str, Any] = {
            "model_name": self.service.model,
            "model_version": "1",
            "outputs": described,
        }
        if request.id is not None:
            content["id"] = request.id
        head = to_json(content)
        if not binary:
            return Response(200, head)
        length = (HEADER_LENGTH.decode(), str(len(head)))
        return Response(200, b"".join((head, *binary)), "application/octet-stream", (length,))

    def metadata(self, platform: str) -> dict[str, Any]:
        """The model's description."""
        return {
            "name": self.service.model,
            "versions": ["1"],
            "platform": platform,
            "inputs": [_described(spec) for spec in self.service.inputs],
            "outputs": [_described(spec) for spec in self.service.outputs],
        }

    def declared(
        self, name: Any, datatype: Any, shape: Any
    ) -> tuple[TensorSpec, np.dtype[Any], tuple[int, ...]]:
        """What the model says of an input that is described like this. Raises Refusal (400) if it does not fit."""
        if not isinstance(name, str) or name not in self._inputs:
            near = closest(name[:60], self._inputs) if isinstance(name, str) else ""
            refuse(f"unknown input {_short(name)}{near}; the model's inputs are {', '.join(self._inputs)}")
        spec, dtype = self._inputs[name]
        if datatype != spec.datatype:
            refuse(f'input "{name}" must have datatype {spec.datatype}, got {_short(datatype)}')
        if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
            refuse(f'input "{name}" must have a shape, a list of sizes')
        if len(shape) != len(spec.shape) or any(
            wanted not in (-1, size) for wanted, size in zip(spec.shape, shape, strict=True)
        ):
            refuse(f'input "{name}" must have shape {list(spec.shape)} (-1: any size), got {_sizes(shape)}')
        return spec, dtype, tuple(shape)

    def check(self, inputs: Tensors) -> None:
        """Raises Refusal (400) if an input is missing, or they have not equally many rows, or too many."""
        if missing := [name for name in self._inputs if name not in inputs]:
            refuse(f'input "{missing[0]}" is missing')
        rows = {len(array) for array in inputs.values()}
        if len(rows) > 1:
            refuse(f"all inputs must have equally many rows, got {sorted(rows)}")
        if not 1 <= (count := rows.pop()) <= self.max_batch:
            refuse(f"a request must have 1 to {self.max_batch} rows, got {count}")

    def _wanted(self, content: Mapping[str, Any]) -> dict[str, bool]:
        all_binary = _mapping(content, "parameters").get("binary_data_output") is True
        wanted = content.get("outputs")
        if wanted is None or wanted == []:
            return dict.fromkeys(self.outputs, all_binary)
        if not isinstance(wanted, list) or not all(isinstance(output, dict) for output in wanted):
            refuse('"outputs" must be a list of objects with a name')
        chosen: dict[str, bool] = {}
        for output in wanted:
            name = self.known_output(output.get("name"))
            chosen[name] = _mapping(output, "parameters").get("binary_data", all_binary) is True
        return chosen

    def known_output(self, name: Any) -> str:
        """The same name. Raises Refusal (400) if the model has no such output."""
        if name not in self.outputs:
            refuse(f"unknown output {_short(name)}; the model's outputs are {', '.join(self.outputs)}")
        return str(name)


def from_numbers(data: Any, spec: TensorSpec, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    """A JSON list, flat or nested like `shape`, as an array.

    The list goes through a typed array of the standard library, which takes numbers only: NumPy would
    take strings, and could be made to reserve any amount of memory by a single long one.
    """
    if not isinstance(data, list):
        refuse(f'input "{spec.name}" must have data, a list of numbers')
    sizes = [len(data)]
    while data and isinstance(data[0], list):
        if not all(type(row) is list and len(row) == len(data[0]) for row in data):
            refuse(f'input "{spec.name}": data must not be ragged')
        sizes.append(len(data[0]))
        data = list(chain.from_iterable(data))
    if len(data) != prod(shape) or (len(sizes) > 1 and sizes != list(shape)):
        refuse(f'input "{spec.name}": data of shape {_sizes(sizes)} do not fit to shape {_sizes(shape)}')
    try:
        values: Array = np.frombuffer(typed_array(code := TYPE_CODES[spec.datatype], data), code)
    except (TypeError, OverflowError):
        refuse(f'input "{spec.name}": data must be {spec.datatype} numbers')
    with np.errstate(over="ignore") if values.dtype != dtype else nullcontext():
        result = values.astype(dtype, copy=False)
    if not np.isfinite(result).all() or (dtype.kind == "b" and (result != values).any()):
        refuse(f'input "{spec.name}": data has numbers that {spec.datatype} cannot hold')
    return result.reshape(shape)


def from_bytes(content: bytes, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Little-endian numbers of `shape`. Raises Refusal (400) if there are more or fewer bytes."""
    wanted = prod(shape) * dtype.itemsize
    if len(content) != wanted:
        refuse(f'input "{name}": shape {_sizes(shape)} needs {wanted} bytes, got {len(content)}')
    array: Array = np.frombuffer(content, "u1" if dtype.kind == "b" else dtype.newbyteorder("<"))
    return (array != 0 if dtype.kind == "b" else array).reshape(shape)


def parse_json(body: bytes) -> dict[str, Any]:
    """A body that must be a JSON object. Raises Refusal (400); NaN and infinities are no JSON."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        refuse("the body must be a JSON object")
    return content


def to_json(content: Mapping[str, Any]) -> bytes:
    """Compact JSON, of what `finite` has let pass: NaN would silently become null."""
    return orjson.dumps(content)


def finite(array: Array) -> Array:
    """The same array. Raises Refusal (422) if it holds NaN or infinities."""
    if not np.isfinite(array).all():
        raise Refusal(422, "the model's output for this input is not finite, which JSON cannot hold")
    return array


def refuse(message: str) -> NoReturn:
    """Raise Refusal with status 400."""
    raise Refusal(400, message)


def _size(value: Any, name: str) -> int:
    if type(value) is not int or value < 0:
        refuse(f'input "{name}": binary_data_size must be a number of bytes')
    return int(value)


def _mapping(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, dict):
        refuse(f'"{key}" must be an object')
    return value


def _id(content: Mapping[str, Any]) -> str | None:
    value = content.get("id")
    if value is not None and not isinstance(value, str):
        refuse('"id" must be a text')
    return value


def _timeout(content: Mapping[str, Any]) -> float | None:
    value = _mapping(content, "parameters").get("timeout")
    if value is None:
        return None
    if type(value) is not int or value <= 0:
        refuse('the parameter "timeout" must be a positive number of microseconds')
    return min(value, 10**12) / 1e6


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _short(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return orjson.dumps(value[:60] if isinstance(value, str) else value).decode()


def _sizes(shape: Sequence[int]) -> str:
    return f"[{', '.join(str(size)[:20] for size in shape[:8])}{', ...' if len(shape) > 8 else ''}]"
