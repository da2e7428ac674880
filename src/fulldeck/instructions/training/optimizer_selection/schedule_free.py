"""Schedule-free training inside the loop: its average is what is evaluated, kept as best and handed over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fulldeck.training.batch_norm import (
    kept_statistics,
    recalculate_statistics,
    running_statistics,
    training_inputs,
)

if TYPE_CHECKING:
    from fulldeck.training.loop import TrainingLoop


class Averages:
    """Puts the averaged weights of a schedule-free optimizer in place, and takes them out again."""

    def __init__(self, loop: TrainingLoop) -> None:
        self.loop = loop
        self.over = False
        self.optimizer: Any = None

    def begin(self) -> None:
        """The optimizer exists: it refuses to step before it is told that training begins."""
        (self.optimizer,) = self.loop.optimizers
        self.optimizer.train()

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within it the model has the averaged weights; afterwards exactly those that it had."""
        if self.over or self.optimizer is None:
            yield
            return
        parameters = self._parameters()
        own = [parameter.detach().clone() for parameter in parameters]
        with kept_statistics(self.loop.model):
            self._put_in()
            try:
                yield
            finally:
                self.optimizer.train()
                with torch.no_grad():
                    # There and back again is off by rounding, and evaluating must not change the training.
                    torch._foreach_copy_(parameters, own)

    def settle(self) -> None:
        """Training is over: the average stays in place."""
        self._put_in()
        self.over = True

    def _put_in(self) -> None:
        self.optimizer.eval()
        if running_statistics(self.loop.model):
            recalculate_statistics(self.loop.model, training_inputs(self.loop))

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]
