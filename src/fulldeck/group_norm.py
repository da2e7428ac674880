"""Group norms in the place of batch norms, for training in which no sample may see the others of its batch."""

from __future__ import annotations

import math

from torch import nn

GROUPS = 32
"""Most groups of a group norm in the place of a batch norm (Wu & He 2018, arXiv:1803.08494)."""


def with_group_norm(model: nn.Module) -> list[str]:
    """Put a group norm in the place of every batch norm of `model`, in place; return their names."""
    found = []
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            channels = module.num_features
            norm = nn.GroupNorm(math.gcd(GROUPS, channels), channels, affine=module.affine)
            norm.train(module.training).to(next(iter(model.parameters())).device)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, norm)
            found.append(name)
    return found
