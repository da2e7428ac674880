"""torch's Muon, also for the kernels of convolutions: as matrices of one row an output channel."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` over groups of matrices and of kernels (output channels x all that each of them sees).

    That order of the columns may be any: what is orthogonalised is the same. Jordan 2024,
    kellerjordan.github.io/posts/muon.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **settings: Any) -> None:
        # torch's own looks only here whether all are matrices.
        super().__init__([nn.Parameter(torch.zeros(1, 1))], **settings)
        self.param_groups.clear()
        for group in groups:
            self.add_param_group(group)

    def _init_group(
        self,
        group: MutableMapping[str, Any],
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        muon_momentum_bufs: list[Tensor],
    ) -> bool:
        for parameter in group["params"]:
            if parameter.grad is None or parameter.ndim == 2:
                continue
            # Laid out in memory as the kernel is (which may be channels last), also after a checkpoint was read.
            momentum = self.state[parameter].get("momentum_buffer")
            if momentum is None:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            elif momentum.stride() != parameter.stride():
                self.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
        complex_numbers = super()._init_group(group, params_with_grad, grads, muon_momentum_bufs)
        last = [parameter.ndim > 2 and not parameter.is_contiguous() for parameter in params_with_grad]
        for tensors in (params_with_grad, grads, muon_momentum_bufs):
            tensors[:] = [_as_matrix(one, columns) for one, columns in zip(tensors, last, strict=True)]
        return complex_numbers


def _as_matrix(kernel: Tensor, channels_last: bool) -> Tensor:
    """The same memory, where it is laid out like that."""
    if channels_last:
        kernel = kernel.movedim(1, -1)
    return kernel.flatten(1)
