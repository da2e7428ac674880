"""How the gradients of several processes become one: what DDP's hook sends, and how long it is waited for.

No postponed annotations here: DDP looks at those of its hook.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fulldeck.errors import BadInput

Compression = Literal["none", "bfloat16", "float16", "powersgd"]

_NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}
RANK, EXACT_STEPS = 2, 100
"""Of PowerSGD: columns of its factors, and the first steps, in which nothing is compressed."""


class Exchange:
    """The hook of a DDP module: gradients are divided, perhaps narrowed, and added up over the processes."""

    def __init__(
        self,
        compression: Compression = "none",
        predivide: float | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        world_size = dist.get_world_size(group)
        self.group = group
        self.narrow = _NARROW.get(compression)
        self.before = float(world_size) if predivide is None else predivide
        self.after = world_size / self.before
        self.powersgd: Callable[[Any], torch.futures.Future[Tensor]] | None = (
            _powersgd(group) if compression == "powersgd" else None
        )
        self.sent: float | None = None
        """When the last bucket was sent; None while it is still to come."""

    def waited(self) -> float | None:
        """Seconds since the last bucket was sent; None if it was not, because gradients are missing."""
        return None if self.sent is None else time.perf_counter() - self.sent

    def hook(self, state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:  # type: ignore[name-defined]
        """What DDP calls when a bucket of gradients is complete."""
        compressed = None if self.powersgd is None else self.powersgd(bucket)
        future = self._add_up(bucket.buffer()) if compressed is None else compressed
        if bucket.is_last():
            self.sent = time.perf_counter()
        return future

    @torch.no_grad()
    def add_up_all(self, gradients: Sequence[Tensor], bytes_at_once: int) -> None:
        """As the hook does it, at once and in place: tensors of one type together, so many bytes at a time."""
        waiting: list[Tensor] = []
        for place, gradient in enumerate(gradients):
            waiting.append(gradient)
            following = gradients[place + 1] if place + 1 < len(gradients) else None
            full = sum(one.nbytes for one in waiting) >= bytes_at_once
            if following is None or full or following.dtype != gradient.dtype:
                added = self._add_up(torch.cat([one.flatten() for one in waiting])).wait()
                sizes = [one.numel() for one in waiting]
                for one, mean in zip(waiting, torch.split(added, sizes), strict=True):
                    one.copy_(mean.view_as(one))
                waiting = []

    def _add_up(self, gradients: Tensor) -> torch.futures.Future[torch.Tensor]:
        sending = gradients if self.narrow is None else gradients.to(self.narrow)
        if self.before != 1.0:
            sending.div_(self.before)
        work = dist.all_reduce(sending, group=self.group, async_op=True)
        assert work is not None, "every rank is in the group"

        def added(done: torch.futures.Future[list[Tensor]]) -> Tensor:
            total = done.value()[0]
            if self.after != 1.0:
                total.div_(self.after)
            return total if self.narrow is None else gradients.copy_(total)

        future: torch.futures.Future[torch.Tensor] = work.get_future().then(added)
        return future


class Whole(nn.Module):
    """A model with what is trained beside it, as one: DDP exchanges the gradients of what it is given."""

    def __init__(self, model: nn.Module, companions: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.companions = companions

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the model computes."""
        return self.model(*inputs, **named)


class Replicas(DistributedDataParallel):
    """DDP, and the exchange that is its hook."""

    exchange: Exchange


def refuse_compression(compression: Compression, backend: str) -> None:
    """Raise BadInput for what a backend, as `pick_backend` gives it, cannot do."""
    if compression == "powersgd" and backend == "gloo":
        raise BadInput("compression: powersgd aborts on gloo; write compression: bfloat16")


def replicate(
    model: nn.Module,
    *,
    compression: Compression = "none",
    gradient_predivide_factor: float | None = None,
    bucket_mb: float = 25.0,
    find_unused_parameters: bool = False,
    static_graph: bool = False,
    group: dist.ProcessGroup | None = None,
) -> Replicas:
    """torch's DistributedDataParallel around `model`, which exchanges gradients as said; train it as usual.

    The process group is there. `compression` narrows what is sent (none, bfloat16, float16, powersgd), gradients
    are divided by `gradient_predivide_factor` before they are added up and by the rest of the number of processes
    afterwards. Within `group` alone, if there is one. Raises BadInput for a compression that the backend cannot do.
    """
    device = next(model.parameters()).device
    refuse_compression(compression, dist.get_backend(group))
    replicas = Replicas(
        model,
        device_ids=None if device.type == "cpu" else [device],
        find_unused_parameters=find_unused_parameters,
        static_graph=static_graph,
        bucket_cap_mb=bucket_mb,
        gradient_as_bucket_view=True,
        process_group=group,
    )
    replicas.broadcast_buffers = (
        False  # not in each forward pass; as an argument it would be left out at first too
    )
    replicas.exchange = Exchange(compression, gradient_predivide_factor, group)
    replicas.register_comm_hook(None, replicas.exchange.hook)
    return replicas


def _powersgd(group: Any) -> Any:
    from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

    state = PowerSGDState(group, matrix_approximation_rank=RANK, start_powerSGD_iter=EXACT_STEPS)
    return lambda bucket: powerSGD_hook(state, bucket)
