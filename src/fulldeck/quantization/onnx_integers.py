"""What engines need of an ONNX file with integers, and exporters do not write."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

PACKED_OPSET = 21
"""The operator set from which on ONNX has 4-bit integers."""
_MOST = 7
"""Largest 4-bit weight: ranges are symmetric."""


def fits_in_four_bits(integers: npt.NDArray[np.int8]) -> bool:
    """Whether no value of (at least two) `integers` needs more than 4 bits."""
    return integers.size > 1 and int(np.abs(integers.astype(np.int16)).max()) <= _MOST


def pack_four_bits(model: ModelProto) -> int:
    """Store int8 weights that fit into 4 bits, two in a byte, in place; return how many tensors that were.

    Engines unpack them once, when they load the file: they compute with 8 bits. The file must be of operator
    set 21 or later.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    casts = []
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.INT8:
            continue
        integers = numpy_helper.to_array(tensor)
        if not fits_in_four_bits(integers):
            continue
        flat = np.resize(integers.ravel(), integers.size + integers.size % 2).astype(np.uint8) & 15
        packed = (flat[0::2] | flat[1::2] << 4).astype(np.uint8)
        name = f"{tensor.name}_packed"
        graph.initializer.remove(tensor)
        graph.initializer.append(
            TensorProto(name=name, data_type=TensorProto.INT4, dims=integers.shape, raw_data=packed.tobytes())
        )
        casts.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.INT8))
    for cast in casts:
        graph.node.insert(0, cast)
    return len(casts)


def integer_biases(model: ModelProto) -> int:
    """Give each Gemm of integers an int32 bias, in place; return how many.

    ONNX Runtime takes a Gemm between dequantised tensors for one of integers only if the bias is one too, in
    units of the product of both scales.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    found = 0
    for node in list(graph.node):
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[2] not in constants:
            continue
        scales = [_scale(makers.get(name), constants) for name in node.input[:2]]
        if scales[0] is None or scales[1] is None:
            continue
        unit = (scales[0] * scales[1]).astype(np.float32).reshape(-1)
        bias = numpy_helper.to_array(constants[node.input[2]])
        most = np.iinfo(np.int32).max
        integers = np.clip(np.rint(bias / unit), -most, most).astype(np.int32)
        name = f"{node.input[2]}_{found}"
        unit = np.resize(unit, integers.shape)
        graph.initializer.extend(
            [
                numpy_helper.from_array(integers, f"{name}_int32"),
                numpy_helper.from_array(unit, f"{name}_unit"),
            ]
        )
        dequantize = helper.make_node(
            "DequantizeLinear", [f"{name}_int32", f"{name}_unit"], [f"{name}_float"], axis=0
        )
        graph.node.insert(list(graph.node).index(node), dequantize)
        node.input[2] = f"{name}_float"
        found += 1
    return found


def float_layers_read_floats(model: ModelProto) -> int:
    """Let each layer with float weights read its input as it was before it was rounded, in place; return how many.

    Between rounded tensors ONNX Runtime takes such a layer for one whose weights were forgotten, and rounds them
    itself, with one scale for all: a layer that was left in float for its sensitivity would not be in float.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    found = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or node.input[1] not in constants:
            continue
        dequantize = makers.get(node.input[0])
        quantize = makers.get(dequantize.input[0]) if _is(dequantize, "DequantizeLinear") else None
        if _is(quantize, "QuantizeLinear"):
            node.input[0] = quantize.input[0]
            found += 1
    read = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        for node in [one for one in graph.node if one.op_type == kind and one.output[0] not in read]:
            graph.node.remove(node)
        read = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
    return found


def _is(node: NodeProto | None, kind: str) -> TypeGuard[NodeProto]:
    return node is not None and node.op_type == kind


def _scale(maker: NodeProto | None, constants: dict[str, object]) -> npt.NDArray[np.float32] | None:
    from onnx import numpy_helper

    if maker is None or maker.op_type != "DequantizeLinear" or maker.input[1] not in constants:
        return None
    scale: npt.NDArray[np.float32] = numpy_helper.to_array(constants[maker.input[1]])
    return scale
