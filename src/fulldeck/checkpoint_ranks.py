"""The processes that train together, as far as keeping a training needs them.

Everything here is right for a process alone; with `torch.distributed` initialised it is a collective: every
rank has to call it, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import torch
import torch.distributed as dist

from fulldeck.errors import BadInput

Result = TypeVar("Result")


class Ranks:
    """This process (`rank`) among `world_size`; to be entered after `init_process_group`, if that is called."""

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.world_size = dist.get_world_size() if together else 1
        self._writing: dist.ProcessGroup | None = None
        self._asking: dist.ProcessGroup | None = None
        self._asked: tuple[torch.Tensor, Any] | None = None

    def __enter__(self) -> Self:
        if self.world_size > 1:
            # Groups of their own: what the writing thread says must not come between the gradients. gloo, as
            # what is said lies on the host.
            self._writing = dist.new_group(backend="gloo")
            self._asking = dist.new_group(backend="gloo")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._asked is not None:
            self._asked[1].wait()
        for group in (self._writing, self._asking):
            # After an error another rank may be gone, and with it the group.
            if group is not None and kind is None:
                dist.destroy_process_group(group)

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every rank, in their order."""
        if self._writing is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._writing)
        return values

    def first(self, work: Callable[[], Result]) -> Result:
        """What `work` returns on rank 0, on all of them. Raises on all of them what it refuses there."""
        if self.world_size == 1:
            return work()
        mine: tuple[Result | None, str | None] = None, None
        if self.rank == 0:
            try:
                mine = work(), None
            except BadInput as error:
                mine = None, str(error)
        result, refusal = self.gather(mine)[0]
        if refusal is not None:
            raise BadInput(refusal)
        return cast(Result, result)

    def agree(self, wanted: int) -> int:
        """The largest that any rank wanted; of several ranks, at the call before this one.

        So nobody waits for the slowest: the answer has had a step's time to arrive.
        """
        if self._asking is None:
            return wanted
        before = self._asked
        flag = torch.tensor([wanted])
        self._asked = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._asking, async_op=True)
        if before is None:
            return 0
        before[1].wait()
        return int(before[0])

    def shared(self, state: dict[str, Any]) -> dict[str, Any]:
        """`state` of a training with what is each rank's own (its `own`) as a list over the ranks."""
        return {**state, "own": self.gather(state["own"])}

    def own(self, state: dict[str, Any]) -> dict[str, Any]:
        """`state`, as `shared` gave it, with this rank's own; one that was not there then has None."""
        theirs = state["own"]
        return {**state, "own": theirs[self.rank] if self.rank < len(theirs) else None}
