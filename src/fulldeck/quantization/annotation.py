"""Where a captured graph is quantised, for PT2E: weights, and the activations that integer kernels read and write.

One placement for all engines. Convolutions read and write 8-bit integers, together with a batch-norm and a ReLU
that follow; additions of two activations do so too (the shortcuts of residual networks), or the engines would
leave the convolution before them in float. Linear layers read integers and write floats: what follows is mostly no
integer kernel. Embedding tables are stored as integers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

aten = torch.ops.aten
CONVOLUTIONS = frozenset({aten.conv1d.default, aten.conv2d.default})
BATCH_NORM = aten.batch_norm.default
_RELUS = frozenset({aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default})
_ADDITIONS = frozenset({aten.add.Tensor, aten.add_.Tensor})
_KEY = "quantization_annotation"


@dataclass(frozen=True)
class Specs:
    """How activations and weights are observed and rounded."""

    activation: QuantizationSpec
    weight: QuantizationSpec


class IntegerQuantizer(Quantizer):  # type: ignore[misc]
    """Annotates a captured graph; modules of which a qualified name is in `keep` stay in float."""

    def __init__(self, specs: Specs, keep: Collection[str] = ()) -> None:
        super().__init__()
        self.specs = specs
        self.keep = tuple(keep)
        self.quantised: list[str] = []

    def annotate(self, model: GraphModule) -> GraphModule:
        """Mark what is quantised; `quantised` then has the names of the weights."""
        node: Any  # its arguments are of too many kinds to tell apart
        for node in model.graph.nodes:
            if node.op != "call_function" or self._kept(node):
                continue
            if node.target in CONVOLUTIONS and _is_weight(node.args[1]):
                self._convolution(node)
            elif node.target is aten.linear.default and _is_weight(node.args[1]):
                self._mark(node, {node.args[0]: self.specs.activation, node.args[1]: self.specs.weight})
                self.quantised.append(node.args[1].target)
            elif node.target is aten.embedding.default and _is_weight(node.args[0]):
                self._mark(node, {node.args[0]: self.specs.weight})
                self.quantised.append(node.args[0].target)
        for node in model.graph.nodes:
            if node.op == "call_function" and node.target in _ADDITIONS and not self._kept(node):
                self._addition(node)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing that was marked can be wrong."""

    def _convolution(self, node: Any) -> None:
        inputs = {node.args[0]: self.specs.activation, node.args[1]: self.specs.weight}
        chain = _chain(node, {BATCH_NORM}, _RELUS)
        # PT2E takes a batch-norm into the convolution's weights; its own inputs are not quantised.
        for inner in chain[1:]:
            self._mark(inner, {})
        self._mark(node, inputs)
        chain[-1].meta[_KEY].output_qspec = self.specs.activation
        self.quantised.append(node.args[1].target)

    def _addition(self, node: Node) -> None:
        inputs = [one for one in node.args if isinstance(one, Node)]
        values = [one for one in inputs if _is_float(one)]
        if len(values) != 2 or not any(_writes_integers(one) for one in values):
            return
        last = _chain(node, _RELUS)[-1]
        if last is not node:
            self._mark(last, {})
        self._mark(node, dict.fromkeys(values, self.specs.activation))
        last.meta[_KEY].output_qspec = self.specs.activation

    def _mark(self, node: Node, inputs: dict[Any, QuantizationSpec]) -> None:
        node.meta[_KEY] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)

    def _kept(self, node: Node) -> bool:
        return any(
            path == name or path.startswith(f"{name}.") for path in module_path(node) for name in self.keep
        )


def module_path(node: Node) -> list[str]:
    """The qualified names of the modules that `node` comes from, outermost first; "" is the model itself."""
    return [path.removeprefix("L['self'].") for path, _ in node.meta.get("nn_module_stack", {}).values()]


def _chain(first: Node, *steps: Collection[Callable[..., Any]]) -> list[Node]:
    """`first` and what alone reads it, as far as that is one of the operators of each step (or none of them)."""
    chain = [first]
    for step in steps:
        readers = list(chain[-1].users)
        if len(readers) == 1 and readers[0].target in step and readers[0].args[0] is chain[-1]:
            chain.append(readers[0])
    return chain


def _is_weight(node: object) -> bool:
    return isinstance(node, Node) and node.op == "get_attr"


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.ndim > 1
        and node.op != "get_attr"
    )


def _writes_integers(node: Node) -> bool:
    marked = node.meta.get(_KEY)
    return marked is not None and marked.output_qspec is not None
