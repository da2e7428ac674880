"""What instructions attach to a training, and what they change of its model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from fulldeck.training.hooks import Hooks


class Attachments:
    """A model in training with all that is attached to it; what an instruction keeps is known by its label."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.device = device
        self.model = model.to(device)
        self.module: nn.Module = model
        """The model within its wrappers: what the forward pass calls."""
        self.companions = nn.ModuleDict()
        self.optimizers: list[torch.optim.Optimizer] = []
        self.states: dict[str, Any] = {}
        self.carried: dict[str, Any] = {}
        self.reported: dict[str, dict[str, dict[str, float]]] = {}
        self.drawn: dict[str, list[dict[str, Any]]] = {}
        self.notes: list[str] = []
        """What the user should know at the end of the training."""
        self.surgeries_done: list[str] = []

        self._hooks = Hooks()
        self.on = self._hooks.on
        self.around = self._hooks.around
        self._label = ""
        self._model_wrappers: list[Callable[[nn.Module], nn.Module]] = []
        self._deployed: list[Callable[[], AbstractContextManager[object]]] = []
        self._surgeries: dict[str, Callable[[nn.Module], object]] = {}

    def keep(self, state: Any) -> None:
        """Let checkpoints hold `state.state_dict()`, under the label of the attaching instruction."""
        self.states[self._label] = state

    def carry(self, value: Any) -> None:
        """Leave `value` for the attaching instruction's later doors: `candidate.carried[label]`."""
        self.carried[self._label] = value

    def figures(self) -> dict[str, dict[str, float]]:
        """Where the attaching instruction writes what it changed, now or later, for the run's result.

        Name to `{"before": x, "after": y}`, or to `{"after": y}`.
        """
        return self.reported.setdefault(self._label, {})

    def charts(self) -> list[dict[str, Any]]:
        """Where the attaching instruction puts charts for the report, as `fulldeck.report.panels` has them."""
        return self.drawn.setdefault(self._label, [])

    def wrap_model(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Call `wrap(module)` before training; forward passes use what it returns, hand-over does not."""
        self._model_wrappers.append(wrap)

    def companion(self, module: nn.Module) -> nn.Module:
        """Train `module` beside the model, and keep it in checkpoints; it is not handed over."""
        self.companions[self._label.replace(".", "_")] = module.to(self.device)
        return module

    def deploy_with(self, swap: Callable[[], AbstractContextManager[object]]) -> None:
        """Evaluate and hand over inside `swap()`, which puts in place what will be shipped."""
        self._deployed.append(swap)

    def surgery(self, operate: Callable[[nn.Module], object]) -> Callable[[], None]:
        """Declare a change of the model in mid-training; return the function that carries it out.

        `operate(model)` changes it in place, or returns the module that takes its place. It is logged and done
        again on resume, before states are loaded. New parameters join the first group of the first optimizer.
        """
        label = self._label
        self._surgeries[label] = operate
        return partial(self.change_model, label)

    def change_model(self, label: str) -> None:
        """Carry out the surgery that was declared under `label`."""
        before = {id(parameter) for parameter in self.parameters()}
        changed = self._surgeries[label](self.model)
        if isinstance(changed, nn.Module):
            self.model = changed
        self.model.to(self.device)
        new = [parameter for parameter in self.parameters() if id(parameter) not in before]
        self.optimizers[0].param_groups[0]["params"].extend(new)
        self.surgeries_done.append(label)
        self.module = self._wrapped()
        self.model_was_changed()

    def model_was_changed(self) -> None:
        """Let everybody who holds on to the model's parameters or modules look at it anew."""
        self._hooks.fire("model_changed")

    def parameters(self) -> list[nn.Parameter]:
        """All that is trained: the model's parameters and its companions'."""
        return [p for p in (*self.model.parameters(), *self.companions.parameters()) if p.requires_grad]

    def learning_rate(self) -> float:
        """That of the first group of the first optimizer."""
        return float(self.optimizers[0].param_groups[0]["lr"])

    @contextmanager
    def deployed(self) -> Iterator[nn.Module]:
        """The model as it will be shipped: averaged weights swapped in, evaluation mode."""
        with ExitStack() as stack:
            for swap in self._deployed:
                stack.enter_context(swap())
            was_training = self.model.training
            self.model.eval()
            try:
                yield self.model
            finally:
                self.model.train(was_training)

    def _wrapped(self) -> nn.Module:
        module = self.model
        for wrap in self._model_wrappers:
            module = wrap(module)
        return module
