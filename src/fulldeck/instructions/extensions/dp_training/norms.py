"""Batch norms have no place in private training: through them every sample's gradient depends on the others."""

from __future__ import annotations

from torch import nn

from fulldeck.errors import CannotAct
from fulldeck.group_norm import with_group_norm


def check_norms(model: nn.Module, replace: bool = False) -> None:
    """Raises CannotAct if the model has a batch norm; with `replace` none is left."""
    if replace:
        with_group_norm(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise CannotAct(
                f"{name} is a batch norm, which lets every sample see the others of its batch; write group_norm: true "
                "to train with group norms in their place"
            )
