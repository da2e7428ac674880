"""Batch-norm taken into the convolution or linear layer before it: one operation less, and the same numbers."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from fulldeck.training.batch import Tensors, call

_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
SAME = 1e-4
"""Largest difference that folding may make to an output, relative to the largest output (if over 1)."""


def fold_batch_norm(model: nn.Module, inputs: Tensors) -> list[str]:
    """Take each batch-norm of `model` into the layer before it, in place; return the names of those taken.

    `inputs` are a few rows on the model's device, from which it is seen what follows what. The model is in evaluation
    mode afterwards. A layer that is called twice, shares its weight, or whose output somebody else reads too keeps
    its batch-norm.
    """
    model.eval()
    pairs = _pairs(model, inputs)
    if not pairs:
        return []
    expected = _outputs(model, inputs)
    kept = {name: (model.get_submodule(name), model.get_submodule(norm)) for name, norm in pairs.items()}
    for name, norm in pairs.items():
        _fold(model, name, norm)
    if _same(_outputs(model, inputs), expected):
        return list(pairs.values())
    # Somebody reads what a batch-norm was given: find out whose.
    for name, norm in pairs.items():
        _put(model, name, kept[name][0])
        _put(model, norm, kept[name][1])
    folded = []
    for name, norm in pairs.items():
        _fold(model, name, norm)
        if _same(_outputs(model, inputs), expected):
            folded.append(norm)
        else:
            _put(model, name, kept[name][0])
            _put(model, norm, kept[name][1])
    return folded


def _pairs(model: nn.Module, inputs: Tensors) -> dict[str, str]:
    """Layers by name to the batch-norm that reads their output, and nothing but that."""
    shared = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    calls: Counter[str] = Counter()
    made: list[tuple[str, Tensor]] = []
    found: dict[str, str] = {}

    def layer_gave(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            calls[name] += 1
            made.append((name, output))

        return hook

    def norm_read(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
            calls[name] += 1
            found.update({layer: name for layer, output in made if output is given[0]})

        return hook

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)) and _plain(module, shared):
            hooks.append(module.register_forward_hook(layer_gave(name)))
        elif isinstance(module, _BatchNorm) and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(norm_read(name)))
    try:
        _outputs(model, inputs)
    finally:
        for one in hooks:
            one.remove()
    outputs = dict(made)
    return {
        layer: norm
        for layer, norm in found.items()
        if calls[layer] == calls[norm] == 1
        and (isinstance(model.get_submodule(layer), _CONVOLUTIONS) or outputs[layer].ndim == 2)
    }


def _plain(layer: nn.Module, shared: Counter[int]) -> bool:
    return not is_parametrized(layer) and shared[id(layer.weight)] == 1


def _fold(model: nn.Module, name: str, norm: str) -> None:
    layer: Any = model.get_submodule(name)
    batch_norm: Any = model.get_submodule(norm)
    if isinstance(layer, nn.Linear):
        folded: nn.Module = fuse_linear_bn_eval(copy.deepcopy(layer), batch_norm)
    else:
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        folded = fuse_conv_bn_eval(copy.deepcopy(layer), batch_norm, transposed)
    _put(model, name, folded)
    _put(model, norm, nn.Identity().eval())


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


@torch.no_grad()
def _outputs(model: nn.Module, inputs: Tensors) -> Any:
    return call(model, inputs)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return bool((one - other).abs().max() <= SAME * max(1.0, float(other.abs().max())))
    values = (
        zip(one.values(), other.values(), strict=True)
        if isinstance(one, dict)
        else zip(one, other, strict=True)
    )
    return all(_same(a, b) for a, b in values)
