"""The checkpoints of one training: when they are due, and what happens at SIGTERM."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fulldeck.checkpoints.folder import CheckpointFolder
from fulldeck.checkpoints.termination import Termination
from fulldeck.errors import BadInput, Terminated

if TYPE_CHECKING:
    from fulldeck.instructions.training.fault_tolerant_checkpointing import FaultTolerantCheckpointing
    from fulldeck.training.loop import TrainingLoop

_NOTHING, _TIME, _END = range(3)
"""What a rank may want; the largest counts for all."""


class KeptTraining:
    """What `TrainingLoop.checkpoints` asks: when to save, where, and what to go on from."""

    def __init__(
        self, instruction: FaultTolerantCheckpointing, loop: TrainingLoop, where: str, every_steps: int | None
    ) -> None:
        self.instruction = instruction
        self.loop = loop
        self.every_steps = every_steps
        self.figures = loop.figures()
        self.folder = CheckpointFolder(
            where,
            keep_last=instruction.keep_last,
            keep_best=instruction.keep_best,
            metric=f"validation_{instruction.metric}",
            mode=instruction.mode,
            asynchronous=instruction.asynchronous,
        )
        self.termination = Termination(instruction.grace_seconds)

    @contextmanager
    def opened(self, loop: TrainingLoop) -> Iterator[None]:
        """Lock the folder, listen to SIGTERM, and at the end wait for what is being written."""
        with self.termination, self.folder:
            self.saved_at = time.monotonic()
            self.ending = False
            yield
        self._report()

    def due(self) -> bool:
        """Asked between steps, and after each epoch."""
        loop, chosen = self.loop, self.instruction
        wanted = _NOTHING
        if self.termination.asked:
            wanted = _END
        elif chosen.every_seconds is not None and time.monotonic() - self.saved_at >= chosen.every_seconds:
            wanted = _TIME
        agreed = self.folder.ranks.agree(wanted)
        self.ending = agreed == _END
        if agreed != _NOTHING:
            return True
        if loop.step_in_epoch == 0:
            last = loop.epoch == loop.epochs or loop.stopped is not None
            return last or (chosen.every_epochs is not None and loop.epoch % chosen.every_epochs == 0)
        return self.every_steps is not None and loop.step % self.every_steps == 0

    def write(self, state: dict[str, Any]) -> None:
        """Keep the state. Raises Terminated once it is safe, if SIGTERM was heard."""
        loop = self.loop
        # Before ranks talk to each other here, their threads must have ended to.
        self.folder.wait()
        judged = loop.history[-1] if loop.step_in_epoch == 0 else {}
        self.folder.save(loop.step, self.folder.ranks.shared(state), judged, wait=self.ending)
        self.saved_at = time.monotonic()
        if self.ending:
            self._report()
            raise Terminated(f"SIGTERM: the state after step {loop.step} is kept")

    def read(self, resume: bool) -> dict[str, Any] | None:
        """The newest state that is whole. Raises BadInput if there is one, and nobody asked to go on."""
        steps = self.folder.steps()
        if not steps:
            return None
        if not (resume or self.instruction.autoresume):
            raise BadInput(
                f"{self.folder.store.name} holds checkpoints of an earlier training, up to step {steps[-1]}; go on "
                "with it (--resume, or autoresume: true), or name another folder"
            )
        found = self.folder.newest()
        self.loop.notes.extend(self.folder.notes)
        if found is None:
            return None
        _, state = found
        if not isinstance(state, dict) or "own" not in state:
            raise BadInput(f"{self.folder.store.name} holds checkpoints of something else than a training")
        return self.folder.ranks.own(state)

    def _report(self) -> None:
        if stalls := self.folder.stalls:
            self.figures["checkpoints"] = {"after": len(stalls)}
            self.figures["checkpoint_bytes"] = {"after": self.folder.bytes}
            self.figures["checkpoint_stall_ms"] = {"after": 1000 * statistics.median(stalls)}
