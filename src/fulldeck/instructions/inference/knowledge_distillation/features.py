"""Inner layers of student and teacher: which belong together, listening to them, and bringing them into one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fulldeck.blocks import repeated_blocks
from fulldeck.errors import BadInput, closest
from fulldeck.training.batch import Tensors, call

PLACES = 4
"""Height, width or length that features are averaged to, at most: what is kept of the teacher stays small."""
HEAD = "input of the last layer"

Pair = tuple[str, str]
"""Names of a student's and a teacher's module whose outputs are compared; or HEAD."""


def matching_layers(student: nn.Module, teacher: nn.Module, outputs: int) -> list[Pair]:
    """The middle block of both, where both are stacks of blocks, and what their last layers read.

    The last layer is the last linear one with `outputs` outputs; where a model has none, its last block counts.
    """
    own, theirs = list(repeated_blocks(student)), list(repeated_blocks(teacher))
    pairs: list[Pair] = []
    if own and theirs:
        pairs.append((own[len(own) // 2], theirs[len(theirs) // 2]))
    ends = [
        HEAD if find_head(model, outputs) else blocks[-1] if blocks else None
        for model, blocks in ((student, own), (teacher, theirs))
    ]
    if ends[0] is not None and ends[1] is not None:
        pairs.append((ends[0], ends[1]))
    return list(dict.fromkeys(pairs))


def find_head(model: nn.Module, outputs: int) -> str | None:
    """The name of the last linear layer with that many outputs."""
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == outputs]
    return names[-1] if names else None


class Listener:
    """Keeps what modules of a model gave in its last forward pass in training, until `take` or `remove`.

    In a captured graph, which has no modules left, it listens where they were. `always` listens in evaluation too.
    Raises BadInput for a name that no module has.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], outputs: int, *, always: bool = False) -> None:
        self.model = model
        self.names = tuple(names)
        self.always = always
        self.heard: dict[str, Tensor] = {}
        self._removers: list[Any] = []
        graphs = [one for one in model.modules() if isinstance(one, fx.GraphModule)]
        for name in dict.fromkeys(names):
            if graphs:
                self._tap(graphs[0], name, outputs)
            elif name == HEAD:
                head = find_head(model, outputs)
                assert head is not None, "matching_layers found it"
                self._removers.append(model.get_submodule(head).register_forward_pre_hook(self._before(name)))
            else:
                self._removers.append(_submodule(model, name).register_forward_hook(self._after(name)))

    @property
    def complete(self) -> bool:
        """Whether every name has somewhere to be heard."""
        return len(self._removers) == len(set(self.names))

    def take(self) -> list[Tensor]:
        """What was heard last, in the order of the names."""
        heard, self.heard = self.heard, {}
        return [heard[name] for name in self.names]

    def remove(self) -> None:
        """Listen no more, and leave no trace in the model."""
        for remover in self._removers:
            remover.remove()
        self._removers, self.heard = [], {}

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if module.training or self.always:
                self.heard[name] = inputs[0]

        return hook

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if module.training or self.always:
                self.heard[name] = first_tensor(output)

        return hook

    def _tap(self, graph: fx.GraphModule, name: str, outputs: int) -> None:
        node = _last_of(graph, name) if name != HEAD else _head_input(graph, outputs)
        if node is None:
            return
        place = f"listener_{len(self._removers)}"
        graph.add_submodule(place, nn.Identity())
        with graph.graph.inserting_after(node):
            # Nothing reads what it gives, so whatever tidies the graph up takes it away.
            tap = graph.graph.call_module(place, (node,))
        graph.recompile()
        graph.get_submodule(place).train(graph.training)
        graph.get_submodule(place).register_forward_hook(self._after(name))
        self._removers.append(_Tap(graph, tap, place))


class _Tap:
    def __init__(self, graph: fx.GraphModule, node: fx.Node, place: str) -> None:
        self.graph, self.node, self.place = graph, node, place

    def remove(self) -> None:
        self.graph.graph.erase_node(self.node)
        self.graph.recompile()
        delattr(self.graph, self.place)


def _last_of(graph: fx.GraphModule, name: str) -> fx.Node | None:
    """The node that gave the output of the module that was called `name`."""
    inside = [node for node in graph.graph.nodes if name in _modules_of(node)]
    return inside[-1] if inside else None


def _head_input(graph: fx.GraphModule, outputs: int) -> fx.Node | None:
    linear = torch.ops.aten.linear.default
    for node in reversed(graph.graph.nodes):
        shape = getattr(node.meta.get("val"), "shape", ())
        if node.target is linear and shape and shape[-1] == outputs:
            found: fx.Node = node.args[0]
            return found
    return None


def _modules_of(node: fx.Node) -> list[str]:
    return [path.removeprefix("L['self'].") for path, _ in node.meta.get("nn_module_stack", {}).values()]


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        names = [one for one, _ in model.named_modules() if one]
        raise BadInput(
            f'knowledge_distillation.layers: {type(model).__name__} has no module "{name}"{closest(name, names)}'
        ) from None


def first_tensor(output: Any) -> Tensor:
    """A module's output, or the first tensor of several; a mapping's `logits` if it has them."""
    if isinstance(output, Mapping):
        output = output["logits"] if "logits" in output else next(iter(output.values()))
    first: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return first


def layer_shapes(model: nn.Module, names: Sequence[str], inputs: Tensors, outputs: int) -> list[torch.Size]:
    """The shapes of what the named modules give for `inputs`."""
    listener = Listener(model, names, outputs, always=True)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            call(model, inputs)
        return [tensor.shape for tensor in listener.take()]
    except KeyError as error:
        raise BadInput(
            f"knowledge_distillation.layers: {type(model).__name__} never calls its module {error}"
        ) from None
    finally:
        listener.remove()
        model.train(training)


def common_size(one: torch.Size, other: torch.Size) -> tuple[int, ...]:
    """What features of these two shapes are averaged to: the smaller of both, PLACES at most, in each direction."""
    if len(one) != len(other):
        return ()
    spread = (one[2:], other[2:]) if len(one) > 3 else (one[1:-1], other[1:-1])
    return tuple(min(a, b, PLACES) for a, b in zip(*spread, strict=True))


def in_places(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    """N x C x H x W maps, N x L x C tokens or N x C vectors as N x places x C, averaged to `size` (or to one place)."""
    if feature.ndim == 2:
        return feature.unsqueeze(1)
    maps = feature if feature.ndim > 3 else feature.transpose(1, 2)
    if not size:
        return maps.flatten(2).mean(-1).unsqueeze(1)
    pool = (nn.functional.adaptive_avg_pool1d, nn.functional.adaptive_avg_pool2d, None)[len(size) - 1]
    pooled = maps if tuple(maps.shape[2:]) == size or pool is None else pool(maps, size)  # type: ignore[arg-type]
    return pooled.flatten(2).transpose(1, 2)


def channels(shape: torch.Size) -> int:
    """How many channels a feature of that shape has."""
    return shape[1] if len(shape) > 3 else shape[-1]
