"""The processes that train together, as one of them sees them.

Everything here is right for a process alone; with several of them it is a collective: every rank has to call it,
in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from fulldeck.errors import BadInput

Result = TypeVar("Result")


class GradientExchange(Protocol):
    """What exchanges gradients while they are computed, and may be told to wait: `TrainingLoop.exchange` is one."""

    held: bool
    """Whether gradients stay each rank's own until `now`."""

    def now(self) -> None:
        """Exchange what was held back. A collective."""


class Ranks:
    """This process (`rank`) among `world_size`, once it has been entered.

    To be entered after `init_process_group`, if that is called; `together=False` stays alone all the same.
    """

    def __init__(self, together: bool = True) -> None:
        together = together and dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.world_size = dist.get_world_size() if together else 1
        self._saying: dist.ProcessGroup | None = None
        self._asking: dist.ProcessGroup | None = None
        self._asked: tuple[Tensor, Any] | None = None

    def __enter__(self) -> Self:
        if self.world_size > 1:
            # Groups of their own: what a writing thread says must not come between the gradients. gloo, as what
            # is said lies on the host.
            self._saying = dist.new_group(backend="gloo", timeout=_patience())
            self._asking = dist.new_group(backend="gloo", timeout=_patience())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._asked is not None:
            self._asked[1].wait()
        for group in (self._saying, self._asking):
            # After an error another rank may be gone, and with it the group.
            if group is not None and kind is None:
                dist.destroy_process_group(group)
        self._saying = self._asking = self._asked = None

    # What is said on the host --------------------------------------------------------------------------

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every rank, in their order."""
        if self._saying is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._saying)
        return values

    def gather_first(self, value: Any) -> list[Any]:
        """The `value` of every rank, in their order, on rank 0; an empty list on the others."""
        if self._saying is None:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        dist.gather_object(value, values, group_dst=0, group=self._saying)
        return values or []

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
        said: list[Any] = [mine]
        dist.broadcast_object_list(said, group_src=0, group=self._saying)
        result, refusal = said[0]
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

    def least(self, value: int) -> int:
        """The smallest of all ranks, now."""
        if self._saying is None:
            return value
        smallest = torch.tensor([value])
        dist.all_reduce(smallest, dist.ReduceOp.MIN, group=self._saying)
        return int(smallest)

    # Tensors, where they are ---------------------------------------------------------------------------

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, with the same bits on all of them."""
        if self.world_size == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the ranks, with the same bits on all of them."""
        return tensor if self.world_size == 1 else self.total(tensor) / self.world_size

    # States of a training ------------------------------------------------------------------------------

    def shared(self, state: dict[str, Any]) -> dict[str, Any]:
        """`state` of a training with what is each rank's own (its `own`) as a list over the ranks."""
        return {**state, "own": self.gather(state["own"])}

    def own(self, state: dict[str, Any]) -> dict[str, Any]:
        """`state`, as `shared` gave it, with this rank's own; one that was not there then has the last one's."""
        theirs = state["own"]
        return {**state, "own": theirs[min(self.rank, len(theirs) - 1)]}


def _patience() -> Any:
    """How long the ranks wait for each other; a new group has a time of its own if it is not told."""
    return dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout  # type: ignore[union-attr]
