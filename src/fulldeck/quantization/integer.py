"""A prepared graph (of PT2E) as one of integers: int8 weights, and activations that are rounded to integers.

The result computes in PyTorch what the engines compute with their integer kernels: `quantized_decomposed` operators
that ONNX knows as QuantizeLinear and DequantizeLinear, and that torch's compiler lowers to integer kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from fulldeck.logs import quiet

aten = torch.ops.aten
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_channel.default


def to_integers(prepared: GraphModule) -> GraphModule:
    """The graph that `prepared` (observed or trained, in evaluation mode) stands for; `prepared` is used up."""
    with quiet(), torch.no_grad():
        graph = convert_pt2e(prepared)
        _look_up_integers(graph)
    # A new module has what the graph reads and nothing else: not the float weights, and not PT2E's refusals.
    return GraphModule(graph, graph.graph).requires_grad_(False).eval()


def _look_up_integers(graph: GraphModule) -> None:
    """Dequantise the rows that an embedding looks up, in place of the whole table in every call."""
    nodes = graph.graph
    for node in [n for n in nodes.nodes if n.target is aten.embedding.default]:
        table = node.args[0]
        if not isinstance(table, Node) or table.target is not _DEQUANTIZE:
            continue
        integers, scale = table.args[0], table.args[1]
        with nodes.inserting_before(node):
            rows = nodes.call_function(aten.embedding.default, (integers, *node.args[1:2]))
            column = nodes.call_function(aten.unsqueeze.default, (scale, 1))
            scales = nodes.call_function(aten.embedding.default, (column, *node.args[1:2]))
            floats = nodes.call_function(aten.to.dtype, (rows, torch.float32))
            found = nodes.call_function(aten.mul.Tensor, (floats, scales))
        node.replace_all_uses_with(found)
    nodes.eliminate_dead_code()


def integer_weights(graph: GraphModule) -> dict[str, Tensor]:
    """The int8 weights of a converted graph, by name."""
    return {name: tensor for name, tensor in graph.state_dict().items() if tensor.dtype == torch.int8}
