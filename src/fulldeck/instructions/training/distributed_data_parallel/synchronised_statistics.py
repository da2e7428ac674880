"""Batch-norm whose statistics are those of the rows of all processes together, while a model is trained."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise_statistics(model: nn.Module) -> Callable[[], None]:
    """Put torch.nn.SyncBatchNorm, with the same parameters and buffers, in the place of every batch-norm of `model`.

    In place; what is returned puts the batch-norms back. SyncBatchNorm computes on accelerators only.
    """
    before = {
        name: module
        for name, module in model.named_modules()
        if name and isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
    }

    def put(name: str, module: nn.Module) -> None:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module)

    def undo() -> None:
        now = dict(model.named_modules())
        for name, module in before.items():
            if isinstance(now.get(name), nn.SyncBatchNorm):
                put(name, module.train(now[name].training))

    for name, module in before.items():
        put(name, nn.SyncBatchNorm.convert_sync_batchnorm(module))  # type: ignore[no-untyped-call]
    return undo
