"""Sums of clipped gradients, one gradient a sample: three ways to the same sum, which differ in time and memory.

- `functional`: vmap of grad (torch.func), the whole model at once; every sample's gradient is held.
- `hooks`: hooks on each layer, and Opacus's functions for its gradients; every sample's gradient is held.
- `ghost`: norms without gradients where Opacus knows how (Li et al. 2022, arXiv:2110.05679), and the clipped sum from
  the same backward pass (book-keeping, Bu et al. 2022, arXiv:2210.00038); layers whose gradients are small, such as
  convolutions, go by Opacus's gradients a sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from fulldeck.errors import CannotAct, extra
from fulldeck.training.batch import LossFunction, Tensors, call

Mode = Literal["functional", "hooks", "ghost"]
Forward = Callable[[Tensors], Any]
TINY = 1e-6
"""Added to a norm before something is divided by it."""


class ClippedSum(ABC):
    """Adds the clipped gradients of samples up in `.grad`: `add` for each part of a batch; `end` takes hooks away."""

    def __init__(self, model: nn.Module, loss: LossFunction, max_norm: float) -> None:
        self.model = model
        self.loss = loss
        self.max_norm = max_norm
        self.parameters = [one for one in model.parameters() if one.requires_grad]

    @abstractmethod
    def add(self, inputs: Tensors, targets: Tensor, forward: Forward | None = None) -> Tensor:
        """Add the samples of a part, at least one; return their mean loss. `forward` stands in for the model."""

    @abstractmethod
    def end(self) -> None:
        """Leave the model as it was."""

    def _factors(self, square: Tensor) -> Tensor:
        """What each gradient is multiplied with, from its squared norm."""
        return (self.max_norm / (square.sqrt() + TINY)).clamp(max=1.0)

    def _add(self, parameter: Tensor, gradient: Tensor) -> None:
        gradient = gradient.to(parameter.dtype)
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


class Functional(ClippedSum):
    """By vmap. The model is called as a function, so what is wrapped around the loop's forward does not act."""

    def __init__(self, model: nn.Module, loss: LossFunction, max_norm: float) -> None:
        super().__init__(model, loss, max_norm)

        def of_one(trained: dict[str, Tensor], rest: dict[str, Tensor], one: Tensors, target: Tensor) -> Any:
            state = {**trained, **rest}
            if isinstance(one, dict):
                named = {name: value[None] for name, value in one.items()}
                outputs = torch.func.functional_call(model, state, (), named)
            else:
                outputs = torch.func.functional_call(model, state, (one[None],))
            return self.loss(outputs, target[None])

        gradients = torch.func.grad_and_value(of_one)
        self._of_all = torch.func.vmap(gradients, in_dims=(None, None, 0, 0), randomness="different")

    def add(self, inputs: Tensors, targets: Tensor, forward: Forward | None = None) -> Tensor:
        named = dict(self.model.named_parameters())
        trained = {name: one.detach() for name, one in named.items() if one.requires_grad}
        rest = {name: one.detach() for name, one in named.items() if not one.requires_grad}
        rest |= dict(self.model.named_buffers())
        gradients, losses = self._of_all(trained, rest, inputs, targets)
        square = torch.stack([one.flatten(1).square().sum(1) for one in gradients.values()]).sum(0)
        factors = self._factors(square)
        for name, one in gradients.items():
            self._add(named[name], torch.tensordot(factors, one, dims=1))
        mean: Tensor = losses.mean()
        return mean

    def end(self) -> None:
        """There is nothing to take away."""


class Ghost(ClippedSum):
    """By activations and gradients of outputs: the backward pass computes no gradient of a parameter."""

    def __init__(self, model: nn.Module, loss: LossFunction, max_norm: float) -> None:
        super().__init__(model, loss, max_norm)
        self._gradients, self._norms = _known_layers(model)
        self._calls: list[tuple[nn.Module, Tensor, GradientEdge]] = []
        self._handles = [
            module.register_forward_hook(self._called) for module in model.modules() if _own(module)
        ]
        owners = Counter(id(one) for module in model.modules() for one in _own(module))
        self._shared = {key for key, count in owners.items() if count > 1}

    def _called(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if torch.is_grad_enabled() and module.training and output.requires_grad:
            # An edge, not the tensor: what follows may change that in place.
            self._calls.append((module, inputs[0].detach(), get_gradient_edge(output)))

    def add(self, inputs: Tensors, targets: Tensor, forward: Forward | None = None) -> Tensor:
        self._calls.clear()
        outputs = forward(inputs) if forward is not None else call(self.model, inputs)
        loss = self.loss(outputs, targets)
        calls, self._calls = self._calls, []
        # Of the sum over the samples, so each row has its own sample's gradient.
        arriving = torch.autograd.grad(loss * len(targets), [edge for *_, edge in calls])
        times = Counter(module for module, *_ in calls)
        square = torch.zeros(len(targets), device=targets.device)
        later: list[tuple[nn.Module, Tensor, Tensor]] = []
        held: dict[Tensor, Tensor] = {}
        for (module, activation, _), arrived in zip(calls, arriving, strict=True):
            gradient = arrived
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                gradient = gradient.masked_fill((activation == module.padding_idx).unsqueeze(-1), 0)
            alone = times[module] == 1 and not any(id(one) in self._shared for one in _own(module))
            if alone and self._by_norm(module, activation):
                norms = self._norms[type(module)](module, [activation], gradient)
                square += torch.stack([one.float() for one in norms.values()]).square().sum(0)
                later.append((module, activation, gradient))
            else:
                # What is used twice has the sum of both as its gradient, so norms alone do not do.
                for parameter, one in self._gradients[type(module)](module, [activation], gradient).items():
                    held[parameter] = held[parameter] + one if parameter in held else one
        for one in held.values():
            square += one.flatten(1).square().sum(1)
        factors = self._factors(square)
        for parameter, one in held.items():
            self._add(parameter, torch.tensordot(factors.to(one.dtype), one, dims=1))
        for module, activation, gradient in later:
            self._add_layer(module, activation, gradient, factors)
        return loss.detach()

    def _by_norm(self, module: nn.Module, activation: Tensor) -> bool:
        """Whether norms cost less than gradients: of sequences they are quadratic in the length."""
        if isinstance(module, nn.Embedding):
            return module.max_norm is None and not module.scale_grad_by_freq
        if not isinstance(module, nn.Linear):
            return False
        rows = activation[0].numel() // module.in_features
        return activation.ndim <= 3 and rows * rows <= module.in_features * module.out_features

    def _add_layer(self, module: nn.Module, activation: Tensor, gradient: Tensor, factors: Tensor) -> None:
        """The clipped sum, with no gradient of a single sample."""
        clipped = gradient * factors.to(gradient.dtype).view(-1, *(1,) * (gradient.ndim - 1))
        rows = clipped.reshape(-1, clipped.shape[-1])
        weight = module.weight
        assert isinstance(weight, Tensor)
        if isinstance(module, nn.Embedding):
            total = torch.zeros_like(weight, dtype=rows.dtype)
            total.index_add_(0, activation.reshape(-1), rows)
            self._add(weight, total)
            return
        if weight.requires_grad:
            self._add(weight, rows.T @ activation.reshape(-1, activation.shape[-1]).to(rows.dtype))
        if isinstance(module.bias, Tensor) and module.bias.requires_grad:
            self._add(module.bias, rows.sum(0))

    def end(self) -> None:
        for handle in self._handles:
            handle.remove()


class Hooks(Ghost):
    """By every sample's gradient of every layer."""

    def _by_norm(self, module: nn.Module, activation: Tensor) -> bool:
        return False


MODES: dict[Mode, type[ClippedSum]] = {"functional": Functional, "ghost": Ghost, "hooks": Hooks}


def _own(module: nn.Module) -> list[nn.Parameter]:
    return [one for one in module.parameters(recurse=False) if one.requires_grad]


def _known_layers(model: nn.Module) -> tuple[dict[type, Any], dict[type, Any]]:
    """Opacus's functions for gradients and norms, by layer. Raises CannotAct for a layer that it does not know."""
    module = extra("opacus.grad_sample", "dp")
    fast = extra("opacus.grad_sample.grad_sample_module_fast_gradient_clipping", "dp")
    known: dict[type, Any] = module.GradSampleHooks.GRAD_SAMPLERS
    for name, one in model.named_modules():
        if _own(one) and type(one) not in known:
            raise CannotAct(
                f"{name or 'the model'} ({type(one).__name__}) has weights of a kind that Opacus does not know; "
                "write mode: functional"
            )
    return known, fast.GradSampleHooksFastGradientClipping.NORM_SAMPLERS
