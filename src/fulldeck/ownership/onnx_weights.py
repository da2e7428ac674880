"""The weights in an ONNX file as numbers, also those that were quantised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[Any]
MIDDLE = {"uint8": 128.0, "uint4": 8.0}
"""Where 0 lies in unsigned integers, unless the graph says otherwise."""
DEFAULTS = {"bits": 4, "block_size": 128}
"""Of weights in blocks."""


def onnx_weights(path: Path) -> dict[str, Array]:
    """Every constant of two places and more, as float, by name; scales that are known are applied."""
    graph = onnx.load(path).graph
    arrays = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    found: dict[str, Array] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in arrays and node.input[1] in arrays:
            zero = arrays.get(node.input[2]) if len(node.input) > 2 else None
            axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
            value = _dequantised(arrays[node.input[0]], arrays[node.input[1]], zero, axis)
            if value is not None:
                found[node.input[0]] = value
        elif node.op_type == "MatMulNBits" and set(node.input[1:3]) <= arrays.keys():
            zero = arrays.get(node.input[3]) if len(node.input) > 3 else None
            found[node.input[1]] = _of_product(node, arrays[node.input[1]], arrays[node.input[2]], zero)
        elif node.op_type == "GatherBlockQuantized" and {node.input[0], node.input[2]} <= arrays.keys():
            value = np.asarray(arrays[node.input[0]], dtype=np.float32)
            scale = np.asarray(arrays[node.input[2]], dtype=np.float32)
            if (
                value.ndim == scale.ndim == 2
            ):  # symmetric, and in blocks along a row, as instruction 28 writes it
                found[node.input[0]] = (
                    value * scale.repeat(_number(node, "block_size"), 1)[:, : value.shape[1]]
                )
    for name, value in arrays.items():
        if name not in found and value.ndim >= 2:
            found[name] = np.asarray(value, dtype=np.float32) - MIDDLE.get(value.dtype.name, 0.0)
    return {name: value for name, value in found.items() if value.ndim >= 2}


def _of_product(node: onnx.NodeProto, packed: Array, scale: Array, zero: Array | None) -> Array:
    """The matrix of a MatMulNBits: N rows of K, in blocks of a row that have a scale each, several in a byte."""
    bits, block = _number(node, "bits"), _number(node, "block_size")
    rows, columns = _number(node, "N"), _number(node, "K")
    blocks = -(-columns // block)
    if zero is None:
        zero = np.full((rows, blocks), 2 ** (bits - 1), dtype=np.float32)
    elif zero.dtype == np.uint8:
        zero = _unpacked(zero.reshape(rows, -1), bits)[:, :blocks]
    whole = _unpacked(packed.reshape(rows, blocks, -1), bits)[..., :block].astype(np.float32)
    value: Array = (whole - zero.reshape(rows, blocks, 1)) * scale.reshape(rows, blocks, 1).astype(np.float32)
    return value.reshape(rows, -1)[:, :columns]


def _unpacked(packed: Array, bits: int) -> Array:
    """The numbers of `bits` bits in bytes, the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers: Array = packed[..., None] >> shifts & (2**bits - 1)
    return numbers.reshape(*packed.shape[:-1], -1)


def _number(node: onnx.NodeProto, name: str) -> int:
    """An attribute; what is left out is ONNX Runtime's default."""
    return next((int(one.i) for one in node.attribute if one.name == name), DEFAULTS.get(name, 0))


def _dequantised(value: Array, scale: Array, zero: Array | None, axis: int) -> Array | None:
    """None for scales of blocks, which no axis says."""
    if scale.ndim > 1:
        return None

    def spread(one: Array) -> Array:
        sizes = [1] * value.ndim
        if one.size > 1:
            sizes[axis] = one.size
        return one.reshape(sizes) if value.ndim else one

    offset = 0.0 if zero is None else spread(np.asarray(zero, dtype=np.float32))
    result: Array = (np.asarray(value, dtype=np.float32) - offset) * spread(
        np.asarray(scale, dtype=np.float32)
    )
    return result
