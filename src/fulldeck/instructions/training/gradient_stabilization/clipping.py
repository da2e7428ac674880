"""Limit gradients: their common norm, each value, or each row relative to the weights that it changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fulldeck.distributed.spread_tensor import whole
from fulldeck.errors import BadInput, closest

Clip = Literal["norm", "value", "adaptive"]
LIMITS: dict[str, float] = {"norm": 1.0, "value": 1.0, "adaptive": 0.01}
"""What a gradient is limited to where nothing else is said."""
_SMALLEST_WEIGHT = 1e-3
"""A row of zeros may still learn (arXiv:2102.06171, section 4.1)."""


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[nn.Parameter], how: Clip = "norm", limit: float | None = None
) -> Tensor:
    """Clip the `.grad` of `parameters` in place; return their common 2-norm before, as a scalar tensor.

    `norm` scales all of them so that their common norm is at most `limit` (1), `value` cuts each element to
    -limit..limit (1), `adaptive` scales each row of a gradient so that its norm is at most `limit` (0.01)
    times that of the row of weights (a bias is one row; Brock et al. 2021, arXiv:2102.06171). The device is
    not waited for. Raises BadInput for another word.
    """
    if isinstance(how, (int, float)):
        raise BadInput(f"the second argument says how to clip; write limit={how}")
    if how not in get_args(Clip):
        raise BadInput(f'unknown clip "{how}"{closest(str(how), LIMITS)}; there is {", ".join(LIMITS)}')
    chosen = [parameter for parameter in parameters if parameter.grad is not None]
    norm = gradient_norm(chosen)
    clip_by(chosen, how, LIMITS[how] if limit is None else limit, norm)
    return norm


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The common 2-norm of all gradients, also of those spread over processes; not finite if any is not."""
    return whole(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


@torch.no_grad()
def clip_by(parameters: Sequence[nn.Parameter], how: Clip, limit: float, norm: Tensor) -> None:
    """As `clip_gradients`, with the common `norm` that is already known."""
    if how == "norm":
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    elif how == "value":
        nn.utils.clip_grad_value_(parameters, limit)
    else:
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            most = _row_norms(parameter).clamp_(min=_SMALLEST_WEIGHT).mul_(limit)
            gradient.mul_((most / _row_norms(gradient).clamp_(min=1e-12)).clamp_(max=1.0))


def _row_norms(tensor: Tensor) -> Tensor:
    """The norm of each row (of each output's weights), in a shape that multiplies the tensor."""
    dim = tuple(range(1, tensor.ndim)) or None
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=dim, keepdim=True)
    return norms
