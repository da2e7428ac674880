"""Which neighbours of a model one kernel could do: a product or convolution with what follows, or a chain of
elementwise operations."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import fx, nn
from torch.nn.modules import activation, batchnorm

Chain = tuple[str, ...]

_ACTIVATIONS = tuple(
    kind
    for name in activation.__all__
    if isinstance(kind := getattr(activation, name), type)
    and name not in ("MultiheadAttention", "Softmax", "Softmin", "Softmax2d", "LogSoftmax")
)
_POINTWISE_MODULES = (*_ACTIVATIONS, batchnorm._BatchNorm)
_POINTWISE = frozenset(
    {
        *(operator.add, operator.mul, operator.sub, operator.truediv, operator.neg),
        *(torch.add, torch.mul, torch.sub, torch.relu, torch.sigmoid, torch.tanh, torch.clamp, torch.exp),
        *(nn.functional.relu, nn.functional.gelu, nn.functional.silu, nn.functional.leaky_relu),
        *(nn.functional.elu, nn.functional.hardswish, nn.functional.mish),
    }
)
_POINTWISE_METHODS = frozenset({"add", "mul", "relu", "sigmoid", "tanh", "clamp", "exp", "neg"})
_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fusible_chains(module: nn.Module) -> tuple[Chain, ...]:
    """Chains of at least two, as names of modules and operations, in the order in which they run.

    The order is that of a trace by torch.fx; of a model that cannot be traced, that of its modules, and only
    such chains are then found as are modules next to each other.
    """
    try:
        graph = fx.symbolic_trace(module).graph
    except Exception:  # a user's forward may do anything with the tracer's stand-ins
        return _by_order(module)
    chains = chains_in(graph, dict(module.named_modules()))
    return tuple(
        tuple(str(one.target) if one.op == "call_module" else one.name for one in chain) for chain in chains
    )


def chains_in(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> list[list[fx.Node]]:
    """The chains of at least two nodes of a traced `graph`, in the order in which they run."""
    found: list[list[fx.Node]] = []
    taken: set[fx.Node] = set()
    for node in graph.nodes:
        if node in taken or not (is_pointwise(node, modules) or is_product(node, modules)):
            continue
        chain = [node]
        while len(chain[-1].users) == 1 and is_pointwise(following := next(iter(chain[-1].users)), modules):
            if following in taken:
                break
            chain.append(following)
        taken.update(chain)
        if len(chain) > 1:
            found.append(chain)
    return found


def _by_order(module: nn.Module) -> tuple[Chain, ...]:
    leaves = [(name, one) for name, one in module.named_modules() if not list(one.children())]
    chains: list[list[str]] = []
    before: str | None = None
    for name, one in leaves:
        parent = name.rpartition(".")[0]
        pointwise = isinstance(one, _POINTWISE_MODULES)
        if pointwise and before == parent and chains:
            chains[-1].append(name)
        elif pointwise or isinstance(one, _PRODUCTS):
            chains.append([name])
        before = parent if pointwise or isinstance(one, _PRODUCTS) else None
    return tuple(tuple(chain) for chain in chains if len(chain) > 1)


def is_product(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether it is a matrix product or convolution."""
    return node.op == "call_module" and isinstance(modules[str(node.target)], _PRODUCTS)


def is_pointwise(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether it computes each element by itself."""
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], _POINTWISE_MODULES)
    if node.op == "call_function":
        return node.target in _POINTWISE
    return node.op == "call_method" and node.target in _POINTWISE_METHODS
