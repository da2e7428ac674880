"""The layers of an ONNX file that have weights, by the names that they had in the module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_LAYERS = ("Conv", "MatMul", "Gemm")


def layers_of(model: ModelProto) -> dict[str, list[NodeProto]]:
    """Convolutions and products with constant weights; one without a name of its own has its node's.

    Several nodes of one layer share its weights.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type in _LAYERS and node.input[1] in weights:
            owner, _, kind = node.input[1].rpartition(".")
            found.setdefault(owner if owner and kind == "weight" else node.name, []).append(node)
    return found


def share_of_products(model: ModelProto) -> float:
    """How much of the weights of all layers belongs to matrix products."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    total = products = 0
    for nodes in layers_of(model).values():
        weights = sizes[nodes[0].input[1]]
        total += weights
        products += weights if nodes[0].op_type == "MatMul" else 0
    return products / max(total, 1)


def split_gemms(model: ModelProto) -> None:
    """Write each Gemm of a matrix and constant weights as product and sum, in place."""
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for place, node in reversed(list(enumerate(graph.node))):
        options = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type != "Gemm" or node.input[1] not in constants or options.get("transA"):
            continue
        if options.get("alpha", 1.0) != 1.0 or options.get("beta", 1.0) != 1.0:
            continue
        name, weight = node.input[1], numpy_helper.to_array(constants[node.input[1]])
        if options.get("transB"):
            weight, name = np.ascontiguousarray(weight.T), f"{name}_transposed"
            graph.initializer.append(numpy_helper.from_array(weight, name))
        biased = len(node.input) > 2
        product = f"{node.output[0]}_product" if biased else node.output[0]
        new = [helper.make_node("MatMul", [node.input[0], name], [product], name=node.name)]
        if biased:
            new.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]]))
        graph.node.remove(node)
        for one in reversed(new):
            graph.node.insert(place, one)
