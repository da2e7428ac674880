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
    for name, value in arrays.items():
        if name not in found and value.ndim >= 2:
            found[name] = np.asarray(value, dtype=np.float32) - MIDDLE.get(value.dtype.name, 0.0)
    return {name: value for name, value in found.items() if value.ndim >= 2}


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
