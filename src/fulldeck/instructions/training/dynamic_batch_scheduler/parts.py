"""How large the parts of a batch are, from the first probe to the last step of one training."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fulldeck.errors import BadInput, RunFailed
from fulldeck.instructions.training.dynamic_batch_scheduler.probes import peak_of
from fulldeck.machine import recent_peak, reset_peak
from fulldeck.memory import (
    give_back,
    is_out_of_memory,
    memory_in_use,
    memory_limit,
    parse_bytes,
    spoken_bytes,
)
from fulldeck.training.batch import Batch, split_batch
from fulldeck.training.batch_norm import STATISTICS
from fulldeck.training.random_state import random_state, restore_random_state
from fulldeck.training.rank_share import most_rows

if TYPE_CHECKING:
    from fulldeck.instructions.training.dynamic_batch_scheduler import DynamicBatchScheduler
    from fulldeck.training.loop import TrainingLoop

FIRST_CHECKS, CHECK_EVERY = 4, 10
"""The high-water mark is read after each of the first updates, then once in so many: it forgets nothing."""
MARGIN = 0.03
"""Share of what fits that is left free: no two steps take the same to the byte."""
_MOVING = (*STATISTICS, "num_batches_tracked")
FEW, SOME = 16, 4
"""The probes have one in so many samples of the batch."""


class Parts:
    """How large the parts of one training are, in samples or tokens, and what memory said to that."""

    def __init__(self, instruction: DynamicBatchScheduler, loop: TrainingLoop) -> None:
        self.instruction = instruction
        self.loop = loop
        self.device = loop.device
        self.most = loop.micro_batch
        chosen = instruction.budget
        self.budget = memory_limit(self.device) if chosen is None else parse_bytes(chosen)
        if chosen is not None:
            loop.keep_memory = False  # what the allocator keeps would count as used
        self.figures = loop.figures()
        self.size = 0
        """Most units of a part; 0 before the first batch."""
        self.whole = 0
        self.slope = 0.0
        """Bytes of one unit more, by the probes."""
        self.measured = (0, 0)
        """Units of the largest part, and bytes with it."""
        self.level: int | None = None
        """Bytes in use before the first step: the optimizer's state comes on top of them."""
        self.failed: int | None = None
        """Units with which memory ran out."""
        self.calm = 0
        self.ran_out = 0
        self.largest = 0
        self.accumulated = False
        self.statistics: list[Tensor] | None = None
        self.kept: list[Tensor] = []

    # The gradients phase ---------------------------------------------------------------------------------

    def gradients(self, batch: Batch, inner: Callable[[Batch], None]) -> None:
        row = self._row(batch)
        count = len(batch.targets)
        if batch.whole is not None:
            count = most_rows(len(batch.whole), self.loop.ranks.world_size)
        self.whole = max(self.whole, row * count)
        # Memory may run out on one rank alone: then all of them compute the batch again, so nothing of it is
        # exchanged before it is there on all.
        exchange = self.loop.exchange
        if exchange is not None:
            exchange.held = True
        try:
            if self.size == 0:
                self._predict(batch, inner, row)
            while not self._done(batch, inner, row, count):
                gc.collect()
                give_back(self.device)
        finally:
            if exchange is not None:
                exchange.held = False
        if exchange is not None:
            exchange.now()

    def _done(self, batch: Batch, inner: Callable[[Batch], None], row: int, count: int) -> bool:
        rows = self._rows(count, row)
        self.loop.micro_batch = rows
        before = _device_random_state(self.device)
        statistics = self._statistics()
        if statistics:
            torch._foreach_copy_(self.kept, statistics)
        failed = True
        try:
            inner(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if rows == 1:
                raise RunFailed(
                    f"memory ran out with a single sample ({spoken_bytes(memory_in_use(self.device))} are in "
                    "use); add gradient_checkpointing or amp_optimizer, or make the model or its input smaller"
                ) from None
        else:
            failed = False
        # Here, not above: the exception holds on to all that was computed.
        if self.loop.ranks.least(0 if failed else 1) == 1:
            self.accumulated |= rows < count
            self.largest = max(self.largest, rows * row)
            return True
        _restore_device_random_state(self.device, before)
        if statistics:
            torch._foreach_copy_(statistics, self.kept)
        self.ran_out += 1
        self.failed = rows * row
        self._resize(rows * row // 2)
        return False

    def _statistics(self) -> list[Tensor]:
        """What batch-norm moves in a pass that may be done again."""
        if self.statistics is None:
            modules = (self.loop.model, self.loop.companions)
            named = (pair for module in modules for pair in module.named_buffers())
            self.statistics = [buffer for name, buffer in named if name.endswith(_MOVING)]
            self.kept = [buffer.clone() for buffer in self.statistics]
        return self.statistics

    def _row(self, batch: Batch) -> int:
        if self.instruction.unit == "samples":
            return 1
        inputs = batch.inputs if isinstance(batch.inputs, Tensor) else next(iter(batch.inputs.values()))
        if inputs.ndim < 2:
            raise BadInput(
                "dynamic_batch_scheduler: inputs of one dimension have no tokens; write unit: samples"
            )
        return inputs.shape[1]

    def _rows(self, count: int, row: int) -> int:
        """Rows of a part of `count` rows: as even as parts can be."""
        most = max(self.size // row, 1) if self.most is None else min(max(self.size // row, 1), self.most)
        return -(-count // -(-count // most))

    # Prediction ------------------------------------------------------------------------------------------

    def _predict(self, batch: Batch, inner: Callable[[Batch], None], row: int) -> None:
        """Two probes on the first samples of the batch, which leave no trace."""
        count = len(batch.targets)
        self.size = self.whole
        few, some = max(count // FEW, 2), max(count // SOME, 4)
        if few < some < count:
            points = self._probes(batch, inner, (few, few, some))  # the first one warms up
            if len(points) == 3:
                (_, (fewer, low), (more, high)) = points
                self.slope = (high - low) / ((more - fewer) * row)
                self.measured = (more * row, high)
                self.size = self._fits()
            else:
                self.size = max(some // 2, 1) * row
        self.size = self.loop.ranks.least(self.size)
        give_back(self.device)
        self.level = memory_in_use(self.device)
        reset_peak(self.device)

    def _probes(
        self, batch: Batch, inner: Callable[[Batch], None], sizes: Sequence[int]
    ) -> list[tuple[int, int]]:
        loop, points = self.loop, []
        before = random_state()
        buffers = [(b, b.clone()) for module in (loop.model, loop.companions) for b in module.buffers()]
        for rows in sizes:
            part = split_batch(batch, rows, loop.weigh)[0]
            loop.micro_batch = None
            peak = peak_of(partial(inner, Batch(part.inputs, part.targets, part.weight)), self.device)
            if peak is None:
                break
            points.append((rows, peak))
        for optimizer in loop.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loop.last_loss = None
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        restore_random_state(before)
        return points

    def _fits(self) -> int:
        """Units that stay below the high mark, by the line through what was measured."""
        units, peak = self.measured
        room = self.instruction.high * self.budget - peak
        fits = self.whole if self.slope <= 0 else math.floor((units + room / self.slope) * (1 - MARGIN))
        if self.failed is not None:
            fits = min(fits, self.failed - 1)
        return min(max(fits, 1), self.whole)

    # Watching --------------------------------------------------------------------------------------------

    def step_end(self, batch: Batch) -> None:
        if self.level is not None:
            self._settle()
        elif self.loop.updates <= FIRST_CHECKS or self.loop.updates % CHECK_EVERY == 0:
            self._check(self._row(batch))

    def _settle(self) -> None:
        """The optimizer has its state now, which the probes did not see."""
        assert self.level is not None
        gradients = sum(p.grad.nbytes for p in self.loop.parameters() if p.grad is not None)
        give_back(self.device)
        growth = max(memory_in_use(self.device) - self.level - gradients, 0)
        self.level = None
        units, peak = self.measured
        self.measured = (units, peak + growth)
        self._note(recent_peak(self.device))
        self._resize(min(self._fits(), self.size) if units else self.size)
        reset_peak(self.device)

    def _check(self, row: int) -> None:
        peak, units = recent_peak(self.device), self.largest
        self.measured = (units, peak)
        used = peak / self.budget
        if used > 1 and units <= row:
            raise BadInput(
                f"dynamic_batch_scheduler.budget {spoken_bytes(self.budget)} is below the {spoken_bytes(peak)} "
                f"that one sample at a time needs; write budget: {spoken_bytes(peak / self.instruction.high)}, or "
                "add gradient_checkpointing"
            )
        self._note(peak)
        self.calm = self.calm + 1 if used < self.instruction.low and self.size < self.whole else 0
        wanted = self.size
        if used > self.instruction.high and units > row:
            wanted = units // 2
        elif self.calm >= self.instruction.patience:
            wanted = max(self._fits(), self.size)
        self._resize(wanted)
        self.largest = 0
        reset_peak(self.device)

    def _resize(self, size: int) -> None:
        """Let parts have `size` units, or fewer if another rank wants that."""
        size = self.loop.ranks.least(size)
        if size != self.size:
            self.size, self.calm, self.largest = max(size, 1), 0, 0
            give_back(self.device)
            reset_peak(self.device)

    def _note(self, peak: int) -> None:
        self.figures["micro_batch"] = {"before": self.whole, "after": self.largest}
        self.figures["memory_used"] = {"after": peak / self.budget}
        self.figures["ran_out_of_memory"] = {"after": self.ran_out}

    def follow(self) -> None:
        """The model was changed."""
        self.statistics = None

    def end(self) -> None:
        """Say what was not the same as with whole batches, and leave the loop as it was."""
        self.loop.micro_batch = self.most
        if not self.accumulated:
            return
        kinds = [type(module) for module in self.loop.model.modules()]
        if any(issubclass(kind, _BatchNorm) for kind in kinds):
            self.loop.notes.append(
                "dynamic_batch_scheduler: batch-norm took its statistics from parts of a batch, so this is not "
                "the training that whole batches make; more memory or GroupNorm avoids that"
            )
        if any(issubclass(kind, nn.modules.dropout._DropoutNd) for kind in kinds):
            self.loop.notes.append(
                "dynamic_batch_scheduler: dropout drew other masks than it would for whole batches"
            )

    _KEPT = ("size", "whole", "slope", "failed", "calm", "ran_out", "largest", "accumulated")

    def state_dict(self) -> dict[str, Any]:
        if self.level is not None:  # no step is done yet, and the next one begins afresh
            return {}
        return {"measured": list(self.measured)} | {name: getattr(self, name) for name in self._KEPT}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.measured = (state["measured"][0], state["measured"][1])
            for name in self._KEPT:
                setattr(self, name, state[name])
        give_back(self.device)
        reset_peak(self.device)


def _device_random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    module = None if device.type == "cpu" else torch.get_device_module(device)
    return torch.get_rng_state(), None if module is None else module.get_rng_state(device)


def _restore_device_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.get_device_module(device).set_rng_state(state[1], device)
