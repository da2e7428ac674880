"""A model shared out among processes, and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)

from fulldeck.blocks import repeated_blocks
from fulldeck.distributed.spread_tensor import is_spread, whole

Reshard = Literal["auto", "always", "never"]

_RESHARD: Mapping[str, bool | None] = {"auto": None, "always": True, "never": False}
_MARKS = ("__composable_api_state_key", "_is_fsdp_managed_module", "_fsdp_use_orig_params")
"""Attributes that fully_shard leaves in a module."""


class Shards:
    """A model of which each process holds a share, until `put_together`; `blocks` are put together one by one."""

    def __init__(
        self, model: nn.Module, blocks: Mapping[str, nn.Module], dtype: torch.dtype, **policy: Any
    ) -> None:
        self.model = model
        self.blocks = list(blocks)
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.detach(), 0)
        narrow = None if dtype == torch.float32 else dtype
        computing = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32)
        for block in blocks.values():
            fully_shard(block, mp_policy=computing, **policy)
        # What comes after a block takes what the block gives; the loss gets float32.
        fully_shard(model, mp_policy=replace(computing, output_dtype=torch.float32), **policy)

    def drop(self) -> None:
        """Let go of what is put together at the moment, so that what is done to the shares is seen."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    @torch.no_grad()
    def put_together(self) -> None:
        """Give every process the whole model, on the host, as plain as it came. A collective."""
        tensors: dict[int, nn.Parameter] = {}
        self.drop()
        for module in self.model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and is_spread(parameter):
                    if id(parameter) not in tensors:  # shared ones stay shared
                        tensors[id(parameter)] = _plain(parameter)
                    module._parameters[name] = tensors[id(parameter)]
        for module in self.model.modules():
            _clean(module)


def shard(
    model: nn.Module,
    *,
    blocks: Mapping[str, nn.Module] | None = None,
    dtype: torch.dtype = torch.float32,
    reshard: Reshard = "auto",
    cpu_offload: bool = False,
) -> Shards:
    """Share `model` out among the processes of the group, in place; rank 0's weights are those of all.

    `blocks` (by name; left out: the repeated ones) are put together one at a time, what is outside of them with
    the model. All compute in `dtype`. Optimizers are to be made afterwards, of the parameters that it has then.
    """
    policy = {
        "reshard_after_forward": _RESHARD[reshard],
        "offload_policy": CPUOffloadPolicy() if cpu_offload else OffloadPolicy(),
    }
    return Shards(model, repeated_blocks(model) if blocks is None else blocks, dtype, **policy)


def _plain(parameter: nn.Parameter) -> nn.Parameter:
    together: Tensor = whole(parameter.detach()).cpu()
    return nn.Parameter(together.clone(), requires_grad=parameter.requires_grad)


def _clean(module: nn.Module) -> None:
    """Take out of a module what fully_shard has put into it."""
    if isinstance(module, FSDPModule):
        module.__class__ = type(module).__mro__[2]  # FSDPLinear, FSDPModule, Linear
    for name in [name for name in vars(module) if name.startswith(_MARKS)]:
        del vars(module)[name]
    hooks = {
        name: found for name, found in vars(module).items() if "hooks" in name and isinstance(found, dict)
    }
    foreign = {key for found in hooks.values() for key, hook in found.items() if _of_fsdp(hook)}
    for found in hooks.values():
        for key in foreign & set(found):
            del found[key]


def _of_fsdp(hook: Any) -> bool:
    inner = getattr(hook, "hook", hook)
    return str(getattr(inner, "__module__", "")).startswith("torch.distributed.fsdp")
