"""A PyTorch module quantised after training by torchao's PT2E: to be exported, or compiled by torch."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_map_only
from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationSpec

from fulldeck.errors import BadInput, CannotAct, closest
from fulldeck.logs import quiet
from fulldeck.quantization.annotation import IntegerQuantizer, Specs
from fulldeck.quantization.capture import capture
from fulldeck.quantization.integer import to_integers
from fulldeck.training.batch import Tensors, call

AT_ONCE = 32
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_OBSERVERS = {"minmax": MinMaxObserver, "entropy": HistogramObserver}


def integer_module(model: nn.Module, rows: Tensors, method: str, keep: tuple[str, ...]) -> GraphModule:
    """See `fulldeck.quantize_module`."""
    names = [name for name, _ in model.named_modules() if name]
    for name in keep:
        if name not in names:
            raise BadInput(f'there is no layer "{name}" to keep{closest(name, names)}')
    count = len(rows if isinstance(rows, Tensor) else next(iter(rows.values())))
    graph = capture(copy.deepcopy(model).cpu().eval(), tree_map_only(Tensor, lambda t: t[:2], rows))
    quantizer = IntegerQuantizer(_specs(method), keep)
    with quiet(), torch.no_grad():
        prepared = prepare_pt2e(graph, quantizer)
        if not quantizer.quantised:
            raise CannotAct("the model has no linear layer or convolution to quantise")
        for start in range(0, count, AT_ONCE):
            call(prepared, tree_map_only(Tensor, lambda t, at=start: t[at : at + AT_ONCE], rows))
    return to_integers(prepared)


@torch.no_grad()
def errors_by_module(model: nn.Module, rows: Tensors) -> dict[str, float]:
    """Each layer to the relative error of the outputs (RMS) where it alone has rounded weights and inputs.

    The most sensitive first.
    """
    model = copy.deepcopy(model).cpu().eval()
    ranges: dict[str, tuple[Tensor, Tensor]] = {}
    layers = {name: one for name, one in model.named_modules() if isinstance(one, _LAYERS)}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(
            lambda _, inputs, name=name: ranges.update({name: inputs[0].aminmax()})
        )
    reference = call(model, rows)
    size = float(reference.square().mean().sqrt()) or 1.0
    errors = {}
    for name, layer in layers.items():
        if name not in ranges:  # it takes no part
            continue
        low, high = (float(value) for value in ranges[name])
        weight = layer.weight.clone()
        most = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).clamp_min(1e-12) / 127
        layer.weight.copy_((weight / most).round() * most)
        step = max(high - low, 1e-12) / 255
        rounding = layer.register_forward_pre_hook(
            lambda _, inputs, low=low, step=step: (
                low + ((inputs[0] - low) / step).round() * step,
                *inputs[1:],
            )
        )
        errors[name] = float((call(model, rows) - reference).square().mean().sqrt()) / size
        rounding.remove()
        layer.weight.copy_(weight)
    return dict(sorted(errors.items(), key=lambda item: item[1], reverse=True))


def _specs(method: str) -> Specs:
    activation = QuantizationSpec(
        dtype=torch.uint8,
        quant_min=0,
        quant_max=255,
        qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=_OBSERVERS[method],
    )
    weight = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        observer_or_fake_quant_ctr=PerChannelMinMaxObserver,
    )
    return Specs(activation, weight)
