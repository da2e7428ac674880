"""Move outliers of a transformer's activations into its weights, where a scale a channel takes them better.

Xiao et al. 2022, arXiv:2211.10438 (SmoothQuant). Channels of a layer normalisation's output differ in size by
orders of magnitude, and one scale serves all: each channel is divided by s, and the weights that read it are
multiplied by s, which changes nothing in float.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fulldeck.data import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

NORMALISATIONS = ("LayerNormalization", "RMSNormalization")
LEAST = 1e-5
AT_ONCE = 32


def smooth_outliers(model: ModelProto, calibration: Mapping[str, Array], strength: float) -> ModelProto:
    """`model` with s = (largest input)^strength / (largest weight)^(1 - strength) for each channel of what products
    read from layer normalisations; it computes the same in float.

    The normalisation's own weights take the division; where something else reads its output too, products get
    a divided copy. `calibration` are rows by input name.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    norms = {n.output[0]: n for n in graph.node if n.op_type in NORMALISATIONS}

    def smoothable(node: NodeProto, name: str) -> bool:
        own = node.input[1] in constants and len(readers[node.input[1]]) == 1
        return node.op_type in ("MatMul", "Gemm") and node.input[0] == name and own

    products = {name: [node for node in readers.get(name, ()) if smoothable(node, name)] for name in norms}
    largest = _largest(model, [name for name, found in products.items() if found], calibration)
    for name, most_read in largest.items():
        norm, smoothed = norms[name], f"{name}_smoothed"
        weights = [_weight(product, constants) for product in products[name]]
        most = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
        scale = np.maximum(most_read, LEAST) ** strength / np.maximum(most, LEAST) ** (1 - strength)
        if all(one in constants for one in norm.input[1:]) and len(products[name]) == len(readers[name]):
            for place, one in enumerate(norm.input[1:], start=1):
                value = numpy_helper.to_array(constants[one]) / scale
                norm.input[place] = _add(model, f"{smoothed}_{place}", value)
        else:
            division = helper.make_node("Mul", [name, _add(model, f"{smoothed}_by", 1 / scale)], [smoothed])
            graph.node.insert(list(graph.node).index(norm) + 1, division)
            for product in products[name]:
                product.input[0] = smoothed
        for product, weight in zip(products[name], weights, strict=True):
            value = weight * scale[:, None]
            tensor = constants[product.input[1]]  # in place, for its name is that of the layer
            value = np.ascontiguousarray(value.T if _transposed(product) else value, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    used = {name for node in graph.node for name in node.input}
    for tensor in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(tensor)
    return model


def _weight(product: NodeProto, constants: Mapping[str, TensorProto]) -> Array:
    """K x N: rows are the channels that are read."""
    from onnx import numpy_helper

    weight: Array = numpy_helper.to_array(constants[product.input[1]])
    return weight.T if _transposed(product) else weight


def _transposed(product: NodeProto) -> bool:
    return any(one.name == "transB" and one.i for one in product.attribute)


def _add(model: ModelProto, name: str, value: Array) -> str:
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
    return name


def _largest(model: ModelProto, names: list[str], calibration: Mapping[str, Array]) -> dict[str, Array]:
    """The largest absolute value of each channel of the inner tensors `names`."""
    import onnx
    import onnxruntime

    if not names:
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options)
    count = len(next(iter(calibration.values())))
    found: dict[str, Array] = {}
    for start in range(0, count, AT_ONCE):
        rows = {name: value[start : start + AT_ONCE] for name, value in calibration.items()}
        for name, value in zip(names, session.run(names, rows), strict=True):
            most = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            found[name] = np.maximum(found.get(name, most), most)
    return found
