"""A model that rounds its weights and activations as the integers of later will, while it is trained."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_map_only
from torchao.quantization.pt2e import (
    FakeQuantize,
    FusedMovingAvgObsFakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)
from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationSpec

from fulldeck.errors import CannotAct
from fulldeck.logs import quiet
from fulldeck.quantization.annotation import BATCH_NORM, CONVOLUTIONS, IntegerQuantizer, Specs
from fulldeck.quantization.capture import capture
from fulldeck.quantization.integer import to_integers
from fulldeck.training.batch import Tensors, call

FOLLOWING = 0.01
"""How fast the range of an activation follows its extremes in a batch (a moving average)."""
_MODES = {
    BATCH_NORM: 5,
    torch.ops.aten.dropout.default: 2,
    torch.ops.aten.dropout_.default: 2,
    torch.ops.aten.feature_dropout.default: 2,
}
"""Operators that compute otherwise in training, and which argument says so."""


class RoundedActivation(FusedMovingAvgObsFakeQuantize):  # type: ignore[misc]
    """Rounds activations of fewer bits too, which mixed precision has: the fused kernel takes float32 only."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` rounded, in its own type."""
        rounded: Tensor = super().forward(x.float())
        return rounded.to(x.dtype)


class FakeQuantized(nn.Module):
    """A captured model with rounded weights (one scale a channel) and activations (8 bits), and float gradients.

    It has the model's own parameters; `quantised` names those that are rounded. Ranges of activations follow
    the batches in training, stand still in evaluation, and for good once it is frozen; those of weights are
    always the weights' own.
    """

    frozen: Tensor

    def __init__(self, graph: GraphModule, example: Tensors, quantised: tuple[str, ...]) -> None:
        super().__init__()
        del graph.train, graph.eval  # PT2E's refuse; ours, below, do what they say
        self.graph = graph
        self.example = example
        self.quantised = quantised
        self.register_buffer("frozen", torch.tensor(False))
        # Dropout in attention has its rate where others have their mode.
        self._rates = [node.args[4] if len(node.args) > 4 else 0.0 for node in self._attentions()]

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the model computes."""
        return self.graph(*inputs, **named)

    def train(self, mode: bool = True) -> FakeQuantized:
        """As of every module: also batch-norm, dropout and the ranges of activations follow it."""
        super().train(mode)
        learning = mode and not bool(self.frozen)
        for node in self.graph.graph.nodes:
            if (place := _MODES.get(node.target)) is not None:
                node.update_arg(place, learning if node.target is BATCH_NORM else mode)
        for node, rate in zip(self._attentions(), self._rates, strict=True):
            if rate:
                node.update_arg(4, rate if mode else 0.0)
        self.graph.recompile()
        for one in self.modules():
            if isinstance(one, FusedMovingAvgObsFakeQuantize):
                one.enable_observer(learning)
        return self

    def freeze(self) -> None:
        """Let ranges of activations and batch-norm's statistics stand still from now on."""
        self.frozen.fill_(True)
        self.train(self.training)

    def _attentions(self) -> list[Node]:
        return [
            n
            for n in self.graph.graph.nodes
            if n.target is torch.ops.aten.scaled_dot_product_attention.default
        ]


def fake_quantized(model: nn.Module, inputs: Tensors, bit_width: int, keep: Sequence[str]) -> FakeQuantized:
    """See `fulldeck.prepare_qat`."""
    training = model.training
    # Captured in training: in evaluation there would be no dropout to bring back.
    graph = capture(model.train(), tree_map_only(Tensor, lambda t: t[:2], inputs))
    model.train(training)
    quantizer = IntegerQuantizer(_specs(bit_width), keep)
    modes = _batch_norms(graph)
    with quiet():
        graph = prepare_qat_pt2e(graph, quantizer)
    if not quantizer.quantised:
        raise CannotAct("the model has no linear layer or convolution to quantise")
    _restore_batch_norms(graph, modes)
    example = tree_map_only(Tensor, lambda t: t[:2].clone(), inputs)
    prepared = FakeQuantized(graph, example, tuple(quantizer.quantised))
    prepared.train()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        call(prepared, inputs)  # the first ranges; until then buffers have no size either
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return prepared.train(training)


def integers_of(prepared: FakeQuantized) -> GraphModule:
    """See `fulldeck.convert`."""
    model = copy.deepcopy(prepared).cpu().eval()
    for node in model.graph.graph.nodes:
        if "device" in node.kwargs:
            node.update_kwarg("device", torch.device("cpu"))
    model.graph.recompile()
    with torch.no_grad():
        # Ranges of the weights that there are now: averaged or restored ones are not those of the last step.
        call(model, tree_map_only(Tensor, lambda t: t.cpu(), prepared.example))
        fold_batch_norm(model.graph)
    return to_integers(model.graph)


@torch.no_grad()
def fold_batch_norm(graph: GraphModule) -> None:
    """Take each batch-norm behind a convolution into its weights and bias, for good.

    In training the weights are multiplied by what batch-norm will multiply with, rounded, and the product is
    divided again, so that batch-norm can follow (Jacob et al. 2017, section 3.2).
    """
    for norm in [node for node in graph.graph.nodes if node.target is BATCH_NORM]:
        gamma, beta, mean, variance = (_value(graph, node) for node in norm.args[1:5])
        before, bias = norm.args[0], torch.zeros_like(mean)
        if before.target is torch.ops.aten.add.Tensor:
            bias, before = _value(graph, before.args[1].args[0]), before.args[0]
        if before.target is not torch.ops.aten.div.Tensor or before.args[0].target not in CONVOLUTIONS:
            continue
        convolution = before.args[0]
        rounded = convolution.args[1]
        scaled = rounded.args[0] if rounded.op == "call_module" else rounded
        weight = scaled.args[0]
        factor = gamma / (variance + norm.args[7]).sqrt()
        folded = _value(graph, weight) * factor.view(-1, *[1] * (_value(graph, weight).ndim - 1))
        name = weight.target.replace(".", "_")
        with graph.graph.inserting_before(scaled):
            scaled.replace_all_uses_with(_new(graph, f"{name}_folded", folded))
        with graph.graph.inserting_before(convolution):
            convolution.update_arg(2, _new(graph, f"{name}_bias", beta + (bias - mean) * factor))
        norm.replace_all_uses_with(convolution)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _value(graph: GraphModule, node: Node) -> Tensor:
    owner, _, name = str(node.target).rpartition(".")
    value: Tensor = getattr(graph.get_submodule(owner), name)
    return value


def _new(graph: GraphModule, name: str, value: Tensor) -> Node:
    graph.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return graph.graph.get_attr(name)


def _specs(bit_width: int) -> Specs:
    most = 2 ** (bit_width - 1) - 1
    activation = QuantizationSpec(
        dtype=torch.uint8,
        quant_min=0,
        quant_max=255,
        qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=RoundedActivation.with_args(
            observer=MovingAverageMinMaxObserver, averaging_constant=FOLLOWING
        ),
    )
    weight = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-most,
        quant_max=most,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        # Not the fused one: its scale for symmetric ranges is another than that which conversion will take.
        observer_or_fake_quant_ctr=FakeQuantize.with_args(
            observer=MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0
        ),
    )
    return Specs(activation, weight)


def _batch_norms(graph: GraphModule) -> dict[str, tuple[float, float]]:
    """Momentum and epsilon of each batch-norm, by the name of its running variance; batches are not counted."""
    found = {}
    for node in graph.graph.nodes:
        if node.target is BATCH_NORM:
            found[node.args[4].target] = node.args[6:8]
    for node in list(graph.graph.nodes):
        counted = node.args[0] if node.args else None
        if isinstance(counted, Node) and str(counted.target).endswith("num_batches_tracked"):
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return found


def _restore_batch_norms(graph: GraphModule, modes: dict[str, tuple[float, float]]) -> None:
    # PT2E writes its own epsilon of 1e-5 and momentum of 0.1 into what it fuses.
    for node in list(graph.graph.nodes):
        if node.target is BATCH_NORM:
            variance = node.args[4]
            momentum, eps = modes[variance.target]
            node.update_arg(6, momentum)
            node.update_arg(7, eps)
            for reader in list(variance.users):
                if reader.target is torch.ops.aten.add.Tensor:
                    reader.update_arg(1, eps)
    graph.recompile()
