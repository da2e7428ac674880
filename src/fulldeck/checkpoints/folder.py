"""A training's checkpoints in one place: written while it goes on, rotated, and found again.

    with CheckpointFolder("checkpoints", keep_last=2) as kept:
        if (found := kept.newest()) is not None:
            start, state = found
        for step in range(start, 1000):
            ...
            kept.save(step, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})

At each moment, also after a crash at each moment, the newest complete checkpoint is there: a new one counts
from the instant at which its manifest lies beside its shards, and only then older ones go. Order is by step;
no clock is asked.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self

from fulldeck.checkpoints.checkpoint import encode
from fulldeck.checkpoints.host_copy import HostCopy
from fulldeck.checkpoints.shards import (
    MANIFEST,
    Damaged,
    folder_of,
    read_manifest,
    read_state,
    share_out,
    steps_in,
    write_manifest,
    write_shard,
)
from fulldeck.checkpoints.store import Store, store_at
from fulldeck.distributed.ranks import Ranks
from fulldeck.errors import BadInput
from fulldeck.figures import lower_is_better
from fulldeck.logs import tree as log

PATIENCE = 10.0
"""Seconds that a training of several processes which fails waits for its last checkpoint."""


class CheckpointFolder:
    """Checkpoints at `where`, a folder or an URL that fsspec knows; to be used in a `with` statement.

    The newest `keep_last` are kept, and the `keep_best` with the best `metric` (`mode` min, max, or auto: by
    its name). `save` copies the state, which takes as much memory again, and a thread writes it; one at a
    time. Of several processes (`torch.distributed`) each one writes a part and has to make the same calls.

    Entering raises BadInput if another training keeps its checkpoints here.
    """

    def __init__(
        self,
        where: Path | str,
        *,
        keep_last: int = 2,
        keep_best: int = 0,
        metric: str = "validation_loss",
        mode: Literal["auto", "min", "max"] = "auto",
        asynchronous: bool = True,
    ) -> None:
        self.store: Store = store_at(where)
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.metric = metric
        self.falling = lower_is_better(metric) if mode == "auto" else mode == "min"
        self.asynchronous = asynchronous
        self.ranks = Ranks()
        self.notes: list[str] = []
        """What was wrong with checkpoints that could not be read."""
        self.stalls: list[float] = []
        """Seconds that each `save` took until training could go on."""
        self.bytes = 0
        """Of the newest checkpoint written here, all shards together."""
        self._kept: dict[int, Mapping[str, float]] = {}
        self._newest = -1
        self._copy = HostCopy()
        self._job: _Job | None = None

    def __enter__(self) -> Self:
        self.ranks = Ranks()
        self.ranks.__enter__()
        self.ranks.first(self.store.lock)
        self._kept = self.ranks.first(self._tidy)
        self._newest = max(self._kept, default=-1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
            elif self._job is not None:
                self._job.join(None if self.ranks.world_size == 1 else PATIENCE)
                if self._job.error is not None:
                    log.error("a checkpoint could not be written: %s", self._job.error)
        finally:
            self.store.unlock()
            self.ranks.__exit__(kind, error, trace)

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, in order."""
        return sorted(self._kept)

    def newest(self) -> tuple[int, Any] | None:
        """Step and state of the newest checkpoint that is whole; None if there is none at all.

        Damaged ones are removed, and `notes` say what was wrong with them. Raises BadInput if there are
        checkpoints, and none of them is whole.
        """
        self.wait()
        found: dict[int, Any] = {}

        def choose() -> tuple[int | None, list[str]]:
            wrong = []
            for step in sorted(self._kept, reverse=True):
                try:
                    found[step] = read_state(self.store, folder_of(step))
                except Damaged as error:
                    wrong.append(str(error))
                    continue
                for later in [one for one in self._kept if one > step]:
                    self.store.remove(folder_of(later), MANIFEST)
                return step, wrong
            if wrong:
                raise BadInput(f"no checkpoint is whole: {'; '.join(wrong)}")
            return None, wrong

        step, wrong = self.ranks.first(choose)
        if step is None:
            return None
        self.notes += [f"{text}; went on from step {step}" for text in wrong]
        self._kept = {one: metrics for one, metrics in self._kept.items() if one <= step}
        self._newest = step
        return step, found[step] if step in found else read_state(self.store, folder_of(step))

    def save(
        self,
        step: int,
        state: Any,
        metrics: Mapping[str, float] = MappingProxyType({}),
        *,
        wait: bool = False,
    ) -> None:
        """Keep `state` (see `fulldeck.checkpoints.checkpoint`) as that of `step`; one that is kept already is judged by
        `metrics` from now on.

        It returns once the state is copied, with `wait` once it is safe. Raises BadInput if this or the last
        one could not be written, which leaves those before it as they were, and for a step before the
        newest one.
        """
        begun = time.perf_counter()
        self.wait()
        if step < self._newest:
            raise BadInput(
                f"step {step} lies before the newest checkpoint in {self.store.name}, which is of step "
                f"{self._newest}; go on from that one, or name another folder"
            )
        if step > self._newest:
            tree, tensors = encode(state)
            mine, places = share_out(tensors, self.ranks.rank, self.ranks.world_size)
            copies = self._copy.take(mine)
            self._newest = step
            self._job = _Job(lambda: self._write(step, tree, copies, places, dict(metrics)))
            self._job.start()
            if wait or not self.asynchronous:
                self.wait()
        elif metrics:
            self.ranks.first(lambda: self._judge(step, dict(metrics)))
        self.stalls.append(time.perf_counter() - begun)

    def wait(self) -> None:
        """Wait until what was saved is safe. Raises BadInput if it could not be written."""
        job, self._job = self._job, None
        if job is not None:
            job.join()
            if job.error is not None:
                raise job.error

    # In the thread -------------------------------------------------------------------------------------

    def _write(self, step: int, tree: Any, copies: Any, places: Any, metrics: dict[str, float]) -> None:
        folder, rank = folder_of(step), self.ranks.rank
        try:
            if rank == 0:
                self.store.check_lock()
            shard = write_shard(self.store, folder, rank, tree, copies, places)
        except Exception as error:
            # Whatever it is: the others wait for this one's word.
            shard = {
                "refusal": str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
            }
        shards = self.ranks.gather(shard)

        def complete() -> None:
            refusals = [shard["refusal"] for shard in shards if "refusal" in shard]
            try:
                if refusals:
                    raise BadInput(refusals[0])
                write_manifest(self.store, folder, step, metrics, shards)
            except BadInput:
                self.store.remove(folder, MANIFEST)
                raise
            self._kept[step] = metrics
            self._rotate()

        self.ranks.first(complete)
        self.bytes = sum(shard["bytes"] for shard in shards)

    def _judge(self, step: int, metrics: dict[str, float]) -> None:
        shards = [
            {"bytes": size, "sha256": digest}
            for size, digest in read_manifest(self.store, folder_of(step)).shards
        ]
        write_manifest(self.store, folder_of(step), step, metrics, shards)
        self._kept[step] = metrics
        self._rotate()

    def _rotate(self) -> None:
        stay = set(sorted(self._kept)[-self.keep_last :])
        if self.keep_best:
            judged = [step for step, metrics in self._kept.items() if self.metric in metrics]
            judged = [step for step in judged if not math.isnan(self._kept[step][self.metric])]
            judged.sort(key=lambda step: self._kept[step][self.metric], reverse=not self.falling)
            stay |= set(judged[: self.keep_best])
        for step in set(self._kept) - stay:
            self.store.remove(folder_of(step), MANIFEST)
            del self._kept[step]

    def _tidy(self) -> dict[int, Mapping[str, float]]:
        """Remove what a crash left half done; the steps that are there, with their metrics."""
        kept: dict[int, Mapping[str, float]] = {}
        for step, complete in steps_in(self.store).items():
            if not complete:
                self.store.remove(folder_of(step), MANIFEST)
                continue
            try:
                kept[step] = read_manifest(self.store, folder_of(step)).metrics
            except Damaged:
                kept[step] = {}  # `newest` will say so
        return kept


class _Job(threading.Thread):
    """Work in a thread that does not keep a failed process alive, and the error that it ended with."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(name="fulldeck-checkpoint", daemon=True)
        self.work = work
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.work()
        except Exception as error:
            # Whatever it is: it is raised where the training waits for the checkpoint.
            self.error = error
