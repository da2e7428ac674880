"""The mark of a key on a model: the gradients that bring it there, and how far it is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fulldeck.ownership.claim import Finding, of_answers, of_weights
from fulldeck.ownership.key import Key
from fulldeck.ownership.triggers import COUNT, Form, trigger_classes, trigger_inputs
from fulldeck.ownership.weight_mark import LEAST_WEIGHTS, MOST_WEIGHTS, bits, projection

MARGIN = 4.0
"""How far each sum is pushed, in standard deviations of an unmarked one; further is left alone."""
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Mark:
    """The mark of `key` on `model`, a classifier of one input of this form.

    `add_gradients` is called once a step, when .grad holds the gradient of the batch.
    """

    def __init__(
        self, key: Key, model: nn.Module, form: Form, *, per_step: int = 16, strength: float = 1.0
    ) -> None:
        self.key = key
        self.model = model
        self.form = form
        self.per_step = per_step
        self.strength = strength
        self.inputs = torch.from_numpy(trigger_inputs(key, form))
        self.targets = torch.from_numpy(trigger_classes(key, form.classes))
        self.layer = _largest(model)
        """The name of the layer whose weights are marked; None if none is large enough."""
        self._signs: Tensor | None = None

    def with_key(self, key: Key) -> Self:
        """The mark of another key on the same model."""
        return type(self)(key, self.model, self.form, per_step=self.per_step, strength=self.strength)

    def add_gradients(self, step: int) -> None:
        """Add what brings the model nearer to the mark to its gradients.

        Triggers go through the model as it is deployed, so they leave no trace in running statistics.
        """
        device = next(self.model.parameters()).device
        chosen = torch.arange(step * self.per_step, (step + 1) * self.per_step) % COUNT
        inputs, targets = self.inputs[chosen].to(device), self.targets[chosen].to(device)
        with as_deployed(self.model):
            loss = nn.functional.cross_entropy(self.model(inputs), targets)
            torch.autograd.backward(self.strength * loss)
        self._push_weights()

    def answers(self) -> Finding:
        """The mark in what the model answers."""
        return of_answers(self.key, self.form, self._ask)

    def in_weights(self) -> Finding | None:
        """The mark in its weights."""
        arrays = {
            name: one.detach().float().cpu().numpy()
            for name, one in self.model.named_parameters()
            if one.ndim > 1
        }
        return of_weights(self.key, arrays)

    @torch.no_grad()
    def _ask(self, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        device = next(self.model.parameters()).device
        with as_deployed(self.model):
            outputs: Tensor = self.model(torch.from_numpy(inputs).to(device))
        return np.asarray(outputs.argmax(dim=-1).cpu())

    @torch.no_grad()
    def _push_weights(self) -> None:
        """Of a hinge on each sum, measured in its standard deviations, with the norm of the weights held."""
        weight = dict(self.model.named_parameters()).get(self.layer or "")
        if weight is None or weight.grad is None:
            return
        if self._signs is None or self._signs.device != weight.device:
            signs = projection(self.key, weight.numel()) * bits(self.key)[:, None]
            self._signs = torch.from_numpy(signs).to(weight)
        flat = weight.reshape(-1)[:MOST_WEIGHTS].float()
        unit = torch.linalg.vector_norm(flat).clamp_min(1e-12)
        short = (self._signs @ (flat - flat.mean()) < MARGIN * unit).to(flat)
        push = -(short @ self._signs) / (unit * len(self._signs))
        weight.grad.reshape(-1)[:MOST_WEIGHTS] += self.strength * push.to(weight.grad)


@contextmanager
def as_deployed(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode; afterwards each of its modules is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _largest(model: nn.Module) -> str | None:
    sizes = {
        f"{name}.weight".removeprefix("."): module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, LAYERS)
        and module.weight.requires_grad
        and module.weight.numel() >= LEAST_WEIGHTS
    }
    return max(sizes, key=lambda name: sizes[name]) if sizes else None
