"""Where instructions hook into the training loop: sixteen events to hear of, four phases to wrap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

EVENTS = {
    "ready": "model, optimizers and wrappers are in place; nothing has been restored yet",
    "epoch_start": "an epoch begins (never twice for the same one)",
    "batch_start": "handler(batch): a batch is on the device",
    "part_start": "handler(part): a part of the batch is about to be computed",
    "after_forward": "handler(part): outputs and loss are there; append further losses to part.terms",
    "after_backward": "handler(part): its gradients have been added",
    "before_step": "handler(batch): .grad holds the whole gradient; return a reason to skip the step",
    "step_end": "reversed; handler(batch): the optimizers have stepped (not called for a skipped step)",
    "before_evaluation": "the model of all ranks is about to be evaluated",
    "evaluation": "handler(metrics): the model has been evaluated as deployed; may add metrics",
    "stopping": "handler(reason): somebody asked to stop; return a text to refuse",
    "model_changed": "the model was changed by a surgery",
    "checkpoint": "handler(state): a checkpoint is about to be written",
    "epoch_end": "reversed; the epoch is over, after its evaluation",
    "hand_over": "undo what must not travel with the model",
    "fit_end": "reversed; training is over",
}
REVERSED = frozenset({"step_end", "epoch_end", "fit_end"})
PHASES = {
    "gradients": "(batch): leaves the whole batch's unscaled gradient in .grad; can be repeated",
    "part": "(part): forward and backward of one part",
    "forward": "(part): sets the part's outputs and loss",
    "apply": "(batch): the optimizers step",
}

Handler = Callable[..., Any]


class Hooks:
    """Handlers of events in plan order (or reversed, see EVENTS), and wrappers of phases."""

    def __init__(self) -> None:
        self.handlers: dict[str, list[Handler]] = {event: [] for event in EVENTS}
        self._wrappers: dict[str, list[Handler]] = {phase: [] for phase in PHASES}

    def on(self, event: str, handler: Handler) -> None:
        """Call `handler` at `event` (see EVENTS). Raises ValueError for an unknown event."""
        if event not in EVENTS:
            raise ValueError(f"unknown event {event!r}; there is {', '.join(EVENTS)}")
        self.handlers[event].append(handler)

    def around(self, phase: str, wrapper: Handler) -> None:
        """Run `wrapper(argument, inner)` in place of a phase (see PHASES); the first is the outermost.

        It calls `inner(argument)`, once or more. Raises ValueError for an unknown phase.
        """
        if phase not in PHASES:
            raise ValueError(f"unknown phase {phase!r}; there is {', '.join(PHASES)}")
        self._wrappers[phase].append(wrapper)

    def fire(self, event: str, *arguments: Any) -> None:
        """Call the handlers of `event`."""
        handlers = self.handlers[event]
        for handler in reversed(handlers) if event in REVERSED else handlers:
            handler(*arguments)

    def compose(self, phase: str, inner: Handler) -> Handler:
        """`inner` within all wrappers of `phase`; `inner` itself, at no cost, if there are none."""
        for wrapper in reversed(self._wrappers[phase]):
            inner = partial(_call, wrapper, inner)
        return inner


def _call(wrapper: Handler, inner: Handler, argument: Any) -> Any:
    return wrapper(argument, inner)
