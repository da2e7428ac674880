"""One training whose model is replicated: when gradients are exchanged, what else is kept equal, what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from fulldeck.distributed.own_rows import average, inexact
from fulldeck.distributed.straggler import straggler
from fulldeck.errors import RunFailed
from fulldeck.instructions.training.distributed_data_parallel.exchange import Replicas, Whole, replicate
from fulldeck.instructions.training.distributed_data_parallel.local_steps import LocalSteps, machine_group
from fulldeck.instructions.training.distributed_data_parallel.synchronised_statistics import (
    synchronise_statistics,
)
from fulldeck.training.batch_norm import running_statistics
from fulldeck.training.step_clock import BACKWARD, COMMUNICATION, PHASES

if TYPE_CHECKING:
    from fulldeck.instructions.training.distributed_data_parallel import DistributedDataParallel
    from fulldeck.training.batch import Batch, Part
    from fulldeck.training.loop import TrainingLoop

NAMED = 3
"""Parameters that a message names at most."""


class ReplicatedTraining:
    """The replica of this rank: its gradient is the mean over the ranks once a batch's last part is computed.

    With `average_every` it is the mean over the ranks of this machine, or this rank's own.
    """

    def __init__(self, instruction: DistributedDataParallel, loop: TrainingLoop) -> None:
        self.instruction = instruction
        self.loop = loop
        self.replicas: Replicas | None = None
        self.held = False
        size = int(instruction.bucket_mb * 2**20)
        every = instruction.average_every
        self.local = None if every is None else LocalSteps(loop, every, size)
        self.group = (
            machine_group(loop.device.type) if every is not None and instruction.apart == "machine" else None
        )
        self.statistics: list[torch.Tensor] = []
        """Running statistics that each rank gathers from its own rows."""
        self.separate: Callable[[], None] = lambda: None
        """Puts batch-norms back that have statistics of all ranks."""
        self.figures = loop.figures()
        self.seconds = [0.0] * len(PHASES)
        self.steps = 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Put DDP around the model and its companions; rank 0's weights are those of all from here on."""
        own = self.instruction
        self.replicas = None  # the hooks of one before this must be gone
        self.separate()
        if own.sync_batch_norm and self.loop.device.type != "cpu":
            self.separate = synchronise_statistics(model)
        else:
            self.statistics = list(running_statistics(model).values())
        if not any(parameter.requires_grad for parameter in self.loop.parameters()):
            return model
        if self.local is not None:
            self.local.begin()
            if self.group is None:
                return model
        self.replicas = replicate(
            Whole(model, self.loop.companions),
            compression=own.compression,
            gradient_predivide_factor=own.gradient_predivide_factor,
            bucket_mb=own.bucket_mb,
            find_unused_parameters=own.find_unused_parameters,
            static_graph=own.static_graph,
            group=self.group,
        )
        self.replicas.require_backward_grad_sync = False
        return self.replicas

    def part(self, part: Part, inner: Callable[[Part], None]) -> None:
        """Gradients are exchanged while the last part's are computed, and for no other part."""
        wanted = part.last or self.instruction.exchange == "every"
        if self.replicas is None or not wanted or self.held:
            inner(part)
            return
        exchange = self.replicas.exchange
        exchange.sent = None
        self.replicas.require_backward_grad_sync = True
        try:
            inner(part)
        finally:
            self.replicas.require_backward_grad_sync = False
        waited = exchange.waited()
        if waited is None:
            raise RunFailed(self._missing())
        self.loop.clock.seconds[BACKWARD] -= waited
        self.loop.clock.seconds[COMMUNICATION] += waited

    def now(self) -> None:
        """Exchange gradients that were computed while this was held."""
        if self.replicas is None:
            return
        start = time.perf_counter()
        gradients = []
        for parameter in self.loop.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.replicas.exchange.add_up_all(gradients, int(self.instruction.bucket_mb * 2**20))
        self.loop.clock.seconds[COMMUNICATION] += time.perf_counter() - start

    def gradients(self, batch: Batch, inner: Callable[[Batch], None]) -> None:
        """Batch-norm's statistics are gathered from each rank's rows: keep their mean."""
        inner(batch)
        if self.local is None:
            average(self.statistics, self.loop.ranks)

    def look_at_clock(self) -> None:
        """The loop's clock starts anew with each epoch."""
        clock = self.loop.clock
        self.seconds = [one + more for one, more in zip(self.seconds, clock.seconds, strict=True)]
        self.steps += clock.steps

    def report(self) -> None:
        """What waiting for the others cost a step, and for whom all of them waited."""
        steps = max(self.steps, 1)
        waited, whole = self.seconds[COMMUNICATION], sum(self.seconds)
        self.figures["communication_ms"] = {"after": 1000 * waited / steps}
        self.figures["communication_share"] = {"after": waited / max(whole, 1e-12)}
        own = self.loop.ranks.gather(whole - waited)
        if (late := straggler([one / steps for one in own])) is not None:
            rank, its, others = late
            self.loop.notes.append(
                f"distributed_data_parallel: rank {rank} computes {1000 * its:.3g} ms a step and the others "
                f"{1000 * others:.3g} ms: they wait for it"
            )

    def warn(self) -> None:
        """Say what is not the same as in one process."""
        compression = self.instruction.compression
        differ = {
            f"gradients are exchanged in {compression}": compression != "none",
            f"weights are averaged every {self.instruction.average_every} steps, gradients of each "
            f"{self.instruction.apart} are its own": self.local is not None,
        }
        if said := inexact(self.loop.model) + [words for words, holds in differ.items() if holds]:
            self.loop.notes.append(
                f"distributed_data_parallel: not exactly the training of one process: {', '.join(said)}"
            )

    def release(self) -> None:
        """The model is on its own again."""
        self.separate()
        self.loop.module = self.loop.model
        self.replicas = None

    def _missing(self) -> str:
        named = (
            (name, parameter)
            for module in (self.loop.model, self.loop.companions)
            for name, parameter in module.named_parameters()
        )
        unused = [name for name, parameter in named if parameter.requires_grad and parameter.grad is None]
        more = f" and {len(unused) - NAMED} more" if len(unused) > NAMED else ""
        return (
            f"distributed_data_parallel: no gradient came for {', '.join(unused[:NAMED])}{more} in step "
            f"{self.loop.step}, and the other ranks wait for it; write find_unused_parameters: true"
        )
