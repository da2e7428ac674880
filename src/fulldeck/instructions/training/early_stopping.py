"""Stop training when validation no longer improves, and hand over the best weights that there were.

After each epoch the model is judged as it will be deployed: with averaged weights in place where
weight_averaging is used too. The best state so far is kept as a copy, parameters and buffers, and handed
over at the end, also where training ran through all its epochs. Others may refuse to be stopped (a
quantisation that has not begun); a model that was changed in mid-training begins anew.

Use when: the number of epochs is a guess, or a model that is trained for long gets worse again.
Avoid when: a schedule lets the learning rate fall to the last epoch: most of its gain lies there, and a
stop before it forgoes that (a run that does so says it). Set fewer epochs instead.
Reference: Prechelt 1998, "Early Stopping - But When?", in Neural Networks: Tricks of the Trade.

Example:
    >>> import torch
    >>> from fulldeck.instructions.training.early_stopping import BestWeights
    >>> model = torch.nn.Linear(1, 1)
    >>> best, losses = BestWeights(model), []
    >>> for loss in (0.9, 0.5, 0.6, 0.7, 0.8):  # of your validation data, after each epoch
    ...     _ = torch.nn.init.constant_(model.weight, loss)
    ...     losses.append(loss)
    ...     if is_best(losses):
    ...         best.take()
    ...     if plateaued(losses, patience=2):
    ...         break
    >>> len(losses)
    4
    >>> best.put_back()
    >>> model.weight.item()
    0.5
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from fulldeck.distributed.spread_tensor import spread_as
from fulldeck.errors import BadInput, closest
from fulldeck.figures import lower_is_better
from fulldeck.instruction import Evidence, Instruction, instruction, param

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome
    from fulldeck.training.loop import TrainingLoop

Mode = Literal["min", "max"]

_STILL_HIGH = 0.3
"""Share of the highest learning rate, from which on a schedule's decay had most of its gain before it."""


@instruction(
    20,
    stage="training",
    touches={"weights"},
    after={"weight_averaging": "the best averaged weights replace the last ones, not the other way round"},
    before={"parameter_efficient_finetuning": "the best adapters must be in place when they are merged"},
    evidence=Evidence(
        workload="digits",
        metric="training_steps",
        expect="<= 0.6x",
        cost={"accuracy": ">= -0.01"},
        beside=("weight_averaging",),
    ),
)
class EarlyStopping(Instruction):
    metric: str = param("loss", doc="Validation metric that is watched.")
    mode: Literal["auto", "min", "max"] = param(
        "auto", doc="Whether a smaller or a larger metric is better; auto tells by its name."
    )
    patience: int = param(
        5, ge=1, search=(3, 5, 10), doc="Epochs without gain after which training is stopped."
    )
    min_delta: float = param(0.0, ge=0, doc="Change of the metric that counts as a gain.")
    restore_best: bool = param(True, doc="Hand over the best weights; false hands over the last ones.")

    def attach(self, loop: TrainingLoop) -> None:
        """Judge each epoch, stop, and hand over the best. Raises BadInput without validation data."""
        if loop.validation is None:
            raise BadInput(
                "early_stopping needs validation data; split some off, or leave early_stopping out"
            )
        watch = _Watch(self, loop)
        loop.keep(watch)
        loop.on("evaluation", watch.judge)
        loop.on("model_changed", watch.begin_anew)
        loop.on("fit_end", watch.report)
        loop.on("hand_over", watch.put_back)

    def prove(self, outcome: Outcome) -> float:
        """training_steps: optimizer steps that the training took."""
        return float(outcome.result["training"]["steps"])


class _Watch:
    """The metric of each epoch of one training, and the best weights."""

    def __init__(self, instruction: EarlyStopping, loop: TrainingLoop) -> None:
        self.instruction = instruction
        self.loop = loop
        self.figures = loop.figures()
        self.mode: Mode = "min" if lower_is_better(instruction.metric) else "max"
        if instruction.mode != "auto":
            self.mode = instruction.mode
        self.begin_anew()

    def begin_anew(self) -> None:
        self.values: list[float] = []
        self.best_epoch = 0
        self.best = BestWeights(self.loop.model)

    def judge(self, metrics: dict[str, float]) -> None:
        chosen = self.instruction
        name = f"validation_{chosen.metric}"
        if name not in metrics:
            there = [key.removeprefix("validation_") for key in metrics]
            near = closest(chosen.metric, there) or f"; there is {', '.join(there)}"
            raise BadInput(f'early_stopping: no metric "{chosen.metric}"{near}')
        self.values.append(metrics[name])
        if is_best(self.values, mode=self.mode):
            self.best_epoch = self.loop.epoch
            if chosen.restore_best:
                with self.loop.deployed():
                    self.best.take()
        if plateaued(self.values, patience=chosen.patience, mode=self.mode, min_delta=chosen.min_delta):
            self.loop.stop(f"no better {chosen.metric} for {chosen.patience} epochs")

    def report(self) -> None:
        loop, metric = self.loop, self.instruction.metric
        if not self.values:
            return
        self.figures["epochs"] = {"before": loop.epochs, "after": loop.epoch}
        self.figures["best_epoch"] = {"after": self.best_epoch + 1}
        best = min(self.values) if self.mode == "min" else max(self.values)
        self.figures[f"validation_{metric}"] = {"before": self.values[-1], "after": best}
        group = loop.optimizers[0].param_groups[0]
        highest = float(group.get("max_lr", group.get("initial_lr", group["lr"])))
        left = float(group["lr"]) / highest if highest else 1.0
        if loop.epoch < loop.epochs and _STILL_HIGH < left < 1:
            loop.notes.append(
                f"early_stopping: training stopped while the learning rate was at {left:.0%} of its highest; a "
                f"schedule gains most where it ends: try train.epochs: {loop.epoch} without early_stopping"
            )

    def put_back(self) -> None:
        loop, chosen = self.loop, self.instruction
        # What would be shipped now may never have been judged: an average that is not shipped after all.
        if self.values and chosen.restore_best and loop.history and loop.validation is not None:
            now = loop.evaluate(loop.validation).get(chosen.metric, math.nan)
            best = min(self.values) if self.mode == "min" else max(self.values)
            if is_best([best, now], mode=self.mode):
                self.figures[f"validation_{chosen.metric}"]["after"] = now
                return
        self.best.put_back()

    def state_dict(self) -> dict[str, Any]:
        return {"values": list(self.values), "best_epoch": self.best_epoch, "best": self.best.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.begin_anew()
        self.values = list(state["values"])
        self.best_epoch = state["best_epoch"]
        self.best.load_state_dict(state["best"])


class BestWeights:
    """A copy of a model's parameters and buffers as they were when they were best."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._copies: dict[str, Tensor] = {}

    @torch.no_grad()
    def take(self) -> None:
        """Copy the model as it is now; the copy costs as much memory as the model's weights."""
        for name, tensor in self._tensors().items():
            if name in self._copies:
                self._copies[name].copy_(tensor)
            else:
                self._copies[name] = tensor.clone()

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the model the copy; without one it stays as it is."""
        tensors = self._tensors()
        for name, copy in self._copies.items():
            tensors[name].copy_(copy)

    def state_dict(self) -> dict[str, Tensor]:
        """The copy, by the names of parameters and buffers."""
        return dict(self._copies)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        tensors = self._tensors()
        self._copies = {
            name: tensors[name].detach().clone().copy_(spread_as(saved, tensors[name]))
            for name, saved in state.items()
        }

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}


def is_best(values: Sequence[float], *, mode: Mode = "min") -> bool:
    """Whether the last of `values` is better than all before it; NaN is never."""
    *before, last = _rising(values, mode)
    return last > max(before, default=-math.inf)


def plateaued(
    values: Sequence[float], *, patience: int = 5, mode: Mode = "min", min_delta: float = 0.0
) -> bool:
    """Whether the last `patience` of `values` brought no gain of more than `min_delta` over the best before."""
    best, since = -math.inf, 0
    for value in _rising(values, mode):
        if value > best + min_delta:
            best, since = value, 0
        else:
            since += 1
    return since >= patience


def _rising(values: Sequence[float], mode: Mode) -> list[float]:
    """The values so that larger is better, and what is no number is worst."""
    sign = -1 if mode == "min" else 1
    return [-math.inf if math.isnan(value) else sign * value for value in values]
