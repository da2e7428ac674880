"""The protocol's messages to tensors, and tensors to its messages.

Reference: https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md
"""

from __future__ import annotations

from fulldeck.serving.grpc import open_inference_pb2 as messages
from fulldeck.serving.protocol import (
    NAMES,
    InferenceCodec,
    InferenceRequest,
    from_bytes,
    from_numbers,
    refuse,
)
from fulldeck.serving.wire import Tensors

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    **{"INT64": "int64_contents", "UINT64": "uint64_contents"},
    **{"FP32": "fp32_contents", "FP64": "fp64_contents"},
}
"""Type to the field of its numbers, where they do not come as raw bytes."""


def decode(request: messages.ModelInferRequest, codec: InferenceCodec) -> InferenceRequest:
    """Read a request. Raises Refusal (400)."""
    raw = request.raw_input_contents
    if not request.inputs:
        refuse("inputs must be a list of tensors")
    if raw and len(raw) != len(request.inputs):
        refuse(f"there are {len(request.inputs)} inputs and {len(raw)} raw_input_contents")
    inputs: Tensors = {}
    for place, tensor in enumerate(request.inputs):
        spec, dtype, shape = codec.declared(tensor.name, tensor.datatype, list(tensor.shape))
        if raw and tensor.HasField("contents"):
            refuse(f'input "{spec.name}" has contents, and raw_input_contents as well')
        if raw:
            inputs[spec.name] = from_bytes(raw[place], spec.name, dtype, shape)
        elif spec.datatype not in CONTENTS:
            refuse(f'input "{spec.name}": send {spec.datatype} as raw_input_contents')
        else:
            numbers = list(getattr(tensor.contents, CONTENTS[spec.datatype]))
            inputs[spec.name] = from_numbers(numbers, spec, dtype, shape)
    codec.check(inputs)
    wanted = [codec.known_output(output.name) for output in request.outputs] or codec.outputs
    return InferenceRequest(inputs, dict.fromkeys(wanted, True), request.id, _timeout(request))


def encode(request: InferenceRequest, outputs: Tensors, model: str) -> messages.ModelInferResponse:
    """The answer with the wanted outputs, as raw bytes."""
    answer = messages.ModelInferResponse(model_name=model, model_version="1", id=request.id or "")
    for name in request.outputs:
        array = outputs[name]
        answer.outputs.add(name=name, datatype=NAMES[array.dtype], shape=array.shape)
        answer.raw_output_contents.append(array.tobytes())
    return answer


def _timeout(request: messages.ModelInferRequest) -> float | None:
    if "timeout" not in request.parameters:
        return None
    microseconds = request.parameters["timeout"].int64_param
    if microseconds <= 0:
        refuse('the parameter "timeout" must be a positive number of microseconds')
    return float(microseconds) / 1e6
