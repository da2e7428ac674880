"""Local SGD: between two averages each process, or each machine, makes steps of its own.

What is averaged is all that the next step depends on: weights, the optimizers' moments and running statistics. So
after an average all processes hold the same bits, and a checkpoint of one is a checkpoint of all.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from fulldeck.distributed.together import local
from fulldeck.errors import BadInput, RunFailed
from fulldeck.training.batch_norm import running_statistics
from fulldeck.training.step_clock import COMMUNICATION

if TYPE_CHECKING:
    from fulldeck.instruction import Instruction
    from fulldeck.training.batch import Batch
    from fulldeck.training.loop import TrainingLoop

Apart = Literal["process", "machine"]


def refuse_beside(other: Instruction) -> str | None:
    """Why `other` cannot be there while processes step apart: what it keeps would be each one's own, and be lost."""
    given = other.model_dump()
    apart = "between two averages (average_every) each process"
    match other.card.name:
        case "weight_averaging":
            return f"{apart} would average weights of its own; leave weight_averaging out, or average_every"
        case "gradient_stabilization" if given["skip_spikes"]:
            return (
                f"{apart} would skip steps of its own; write gradient_stabilization: {{skip_spikes: false}}"
            )
        case "amp_optimizer" if given["dtype"] == "float16":
            return f"{apart} would scale losses in its own way; write amp_optimizer: {{dtype: bfloat16}}"
        case "quantization_aware_training":
            return f"{apart} would see ranges of its own; leave average_every out"
    return None


def machine_group(device_type: str) -> dist.ProcessGroup:
    """The processes of this machine, of as many on each. A collective.

    Raises BadInput if machines have different numbers of processes, or there is only one.
    """
    here, world = local()[1], dist.get_world_size()
    numbers: list[int | None] = [None] * world
    dist.all_gather_object(numbers, here)
    if here == world:
        raise BadInput(
            "apart: machine lets machines step apart, and all processes are on this one; write apart: process"
        )
    if len(set(numbers)) > 1:
        raise BadInput("apart: machine wants as many processes on each machine; write apart: process")
    mesh = init_device_mesh(device_type, (world // here, here), mesh_dim_names=("machines", "processes"))
    return mesh["processes"].get_group()


class LocalSteps:
    """Averages what the ranks have after every so many steps, and before it is evaluated, kept or handed over."""

    def __init__(self, loop: TrainingLoop, every: int, bytes_at_once: int) -> None:
        self.loop = loop
        self.every = every
        self.bytes_at_once = bytes_at_once
        self.apart = False
        """Whether a step was made since the last average."""
        loop.on("batch_start", self.before_step)
        loop.on("before_evaluation", self.average)
        # The state refers to the tensors, which are averaged in place.
        loop.on("checkpoint", lambda state: self.average())
        loop.on("fit_end", self.average)

    def begin(self) -> None:
        """Let all ranks have the weights and buffers of rank 0. A collective."""
        for module in (self.loop.model, self.loop.companions):
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def before_step(self, batch: Batch) -> None:
        """Average where so many steps are done; not after a step, for a rank may have left that out."""
        if self.loop.step % self.every == 0:
            self.average()
        self.apart = True

    @torch.no_grad()
    def average(self) -> None:
        """Let all ranks have the mean of what each has. A collective. Raises RunFailed if they have not the same."""
        if not self.apart:
            return
        start = time.perf_counter()
        tensors = self._tensors()
        sizes = [(one.numel(), str(one.dtype)) for one in tensors]
        if any(other != sizes for other in self.loop.ranks.gather(sizes)):
            raise RunFailed(
                "distributed_data_parallel: the optimizers of the processes do not hold the same states, as not all "
                "have used every parameter yet; leave average_every out"
            )
        for some in _bundles(tensors, self.bytes_at_once):
            mean = self.loop.ranks.mean(torch.cat([one.flatten() for one in some]))
            for one, own in zip(some, torch.split(mean, [one.numel() for one in some]), strict=True):
                one.copy_(own.view_as(one))
        self.apart = False
        self.loop.clock.seconds[COMMUNICATION] += time.perf_counter() - start

    def _tensors(self) -> list[Tensor]:
        loop = self.loop
        kept = [
            value
            for optimizer in loop.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
            for value in optimizer.state.get(parameter, {}).values()
            if isinstance(value, Tensor)
        ]
        if any(type(value) is not Tensor for value in kept):
            raise BadInput("states of 8 bits cannot be averaged: leave distributed.average_every out")
        floats = [value for value in kept if value.is_floating_point()]
        return [
            *(one.data for one in loop.parameters()),
            *floats,
            *running_statistics(loop.model).values(),
        ]


def _bundles(tensors: list[Tensor], size: int) -> list[list[Tensor]]:
    """`tensors`, together those of one type and device, of at least `size` bytes while there are so many."""
    bundles: list[list[Tensor]] = []
    # Optimizers keep the count of steps on the host, between moments on the device.
    for tensor in sorted(tensors, key=lambda one: (str(one.device), str(one.dtype))):
        last = bundles[-1] if bundles else []
        full = sum(one.nbytes for one in last) >= size
        if not last or full or last[0].dtype != tensor.dtype or last[0].device != tensor.device:
            bundles.append([tensor])
        else:
            last.append(tensor)
    return bundles
