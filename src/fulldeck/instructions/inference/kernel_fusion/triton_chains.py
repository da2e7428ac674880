"""A chain of a traced model as one launch of a Triton kernel, after its product or convolution if it has one."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fulldeck.chains import is_product
from fulldeck.instructions.inference.kernel_fusion.launch import launch_of

_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
}
_FUNCTIONS: dict[Any, str] = {
    torch.relu: "relu",
    nn.functional.relu: "relu",
    nn.functional.silu: "silu",
    nn.functional.hardswish: "hardswish",
    torch.sigmoid: "sigmoid",
    torch.tanh: "tanh",
    torch.exp: "exp",
    torch.neg: "neg",
    operator.neg: "neg",
}
_METHODS: dict[Any, str] = {name: name for name in ("relu", "sigmoid", "tanh", "exp", "neg")}
_BINARY: dict[Any, str] = {
    operator.add: "add",
    torch.add: "add",
    operator.mul: "mul",
    torch.mul: "mul",
    "add": "add",
    "mul": "mul",
}


def in_triton(
    bounds: tuple[int, int] | None, shared_memory: int | None
) -> Callable[[fx.GraphModule], Callable[..., Any] | None]:
    """What makes a chain a kernel that keeps to launch bounds and shared memory (see `launch_of`).

    Chains with steps that the kernel does not know, or with more than two operands, are none.
    """

    def fuse(part: fx.GraphModule) -> Callable[..., Any] | None:
        return _kernel(part, bounds, shared_memory)

    return fuse


def _kernel(
    part: fx.GraphModule, bounds: tuple[int, int] | None, shared_memory: int | None
) -> Callable[..., Any] | None:
    modules = dict(part.named_modules())
    nodes = [node for node in part.graph.nodes if node.op not in ("placeholder", "output")]
    inputs = [node for node in part.graph.nodes if node.op == "placeholder"]
    head = nodes.pop(0) if is_product(nodes[0], modules) else None
    if head is not None and list(head.args) != inputs[:1]:
        return None
    value, steps, operands = (head or _first_input(nodes)), [], list[fx.Node]()
    for node in nodes:
        step, other = _step(node, value, modules)
        if step is None:
            return None
        if other is not None:
            operands += [other] if other not in operands else []
            if len(operands) > 2 or other not in inputs:
                return None
            step = f"{step}_{('first', 'second')[operands.index(other)]}"
        steps.append(step)
        value = node
    if not steps:
        return None
    start = inputs.index(head.args[0] if head is not None else _first_input(nodes))
    places = [inputs.index(one) for one in operands]
    launch = launch_of(bounds, shared_memory, operands=2 + len(operands))
    from fulldeck.instructions.inference.kernel_fusion.triton_kernels import pointwise_chain

    def run(*given: Tensor) -> Tensor:
        x = given[start] if head is None else modules[str(head.target)](given[start])
        return pointwise_chain(x, steps, *(given[place] for place in places), launch=launch)

    return run


def _first_input(nodes: list[fx.Node]) -> fx.Node:
    return next(arg for arg in nodes[0].args if isinstance(arg, fx.Node))


def _step(node: fx.Node, value: fx.Node, modules: dict[str, nn.Module]) -> tuple[str | None, fx.Node | None]:
    """What the node does to `value`, and the other operand of an addition or product."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        if isinstance(module, nn.GELU):
            return ("gelu" if module.approximate == "none" else None), None
        return _MODULES.get(type(module)), None
    if node.target in _BINARY and len(node.args) == 2 and not node.kwargs:
        others = [arg for arg in node.args if arg is not value]
        if len(others) == 1 and isinstance(other := others[0], fx.Node):
            return _BINARY[node.target], other
        return None, None
    if node.target is nn.functional.gelu and not node.kwargs:
        return "gelu", None
    known: dict[Any, str] = _FUNCTIONS if node.op == "call_function" else _METHODS
    return known.get(node.target), None
