"""Kernels in Triton for the chains that profiles of the workloads show: elementwise chains, and add with layer norm.

They run on a GPU; with TRITON_INTERPRET=1, set before this module is imported, anywhere, slowly. Importing it needs
the extra `triton`.
"""

# What Triton compiles reads its annotations: only those that it knows may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fulldeck.errors import BadInput
from fulldeck.instructions.inference.kernel_fusion.launch import Launch, launch_of

STEPS = {
    "relu": 1,
    "gelu": 2,
    "silu": 3,
    "sigmoid": 4,
    "tanh": 5,
    "hardswish": 6,
    "hardsigmoid": 7,
    "exp": 8,
    "neg": 9,
    "add_first": 10,
    "mul_first": 11,
    "add_second": 12,
    "mul_second": 13,
}
"""What a chain may consist of; the last four read the first or second operand besides."""
_SAME, _CHANNEL, _ROW_AND_CHANNEL = 1, 2, 3
WIDEST = 65_536
"""Elements of a row that one block normalises."""


@triton.jit  # type: ignore[untyped-decorator]
def _step(value, first, second, step: tl.constexpr):
    if step == 1:
        value = tl.maximum(value, 0.0)
    elif step == 2:
        value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    elif step == 3:
        value = value * tl.sigmoid(value)
    elif step == 4:
        value = tl.sigmoid(value)
    elif step == 5:
        value = 2.0 * tl.sigmoid(2.0 * value) - 1.0
    elif step == 6:
        value = value * tl.minimum(tl.maximum(value + 3.0, 0.0), 6.0) / 6.0
    elif step == 7:
        value = tl.minimum(tl.maximum(value + 3.0, 0.0), 6.0) / 6.0
    elif step == 8:
        value = tl.exp(value)
    elif step == 9:
        value = -value
    elif step == 10:
        value = value + first
    elif step == 11:
        value = value * first
    elif step == 12:
        value = value + second
    elif step == 13:
        value = value * second
    return value


@triton.jit  # type: ignore[untyped-decorator]
def _operand(source, places, inside, inner, channels, spread: tl.constexpr):
    where = places
    if spread == 2:
        where = (places // inner) % channels
    elif spread == 3:
        where = places // inner
    return tl.load(source + where, mask=inside, other=0.0).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _chain(
    x,
    first,
    second,
    out,
    count,
    inner,
    channels,
    spread_first: tl.constexpr,
    spread_second: tl.constexpr,
    chain: tl.constexpr,
    length: tl.constexpr,
    tile: tl.constexpr,
):
    places = tl.program_id(0) * tile + tl.arange(0, tile)
    inside = places < count
    value = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    one = value
    other = value
    if spread_first > 0:
        one = _operand(first, places, inside, inner, channels, spread_first)
    if spread_second > 0:
        other = _operand(second, places, inside, inner, channels, spread_second)
    for place in tl.static_range(length):
        value = _step(value, one, other, (chain >> (4 * place)) & 15)
    tl.store(out + places, value, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _add_layer_norm(
    x,
    residual,
    weight,
    bias,
    total,
    out,
    width,
    eps,
    tile: tl.constexpr,
):
    columns = tl.arange(0, tile)
    inside = columns < width
    start = tl.program_id(0) * width
    value = tl.load(x + start + columns, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(residual + start + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(total + start + columns, value, mask=inside)
    mean = tl.sum(value, axis=0) / width
    centred = tl.where(inside, value - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / width + eps)
    factor = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + start + columns, centred * scale * factor + shift, mask=inside)


def pointwise_chain(
    x: Tensor,
    steps: Sequence[str],
    first: Tensor | None = None,
    second: Tensor | None = None,
    *,
    launch: Launch | None = None,
) -> Tensor:
    """The `steps` (of STEPS, 15 at most) on each element of `x`, in one kernel; computed in float32.

    `first` and `second` are of the shape of `x`, or one value for each channel (C; of N x C x ..., or of the last
    axis), or one for each row and channel (N x C x 1 ...). Raises BadInput for an unknown step or another shape.
    """
    x = x.contiguous()
    codes = [_code(step) for step in steps]
    if not 0 < len(codes) <= 15:
        raise BadInput(f"a chain has 1 to 15 steps, got {len(codes)}")
    inner = x[0, 0].numel() if x.ndim > 2 and _by_channel(x, first, second) else 1
    channels = x.shape[1] if inner > 1 or x.ndim == 2 else x.shape[-1]
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    chosen = launch or launch_of(None, None, operands=2 + (first is not None) + (second is not None))
    tensors = [x if one is None else one.contiguous() for one in (first, second)]
    _chain[(triton.cdiv(x.numel(), chosen.tile),)](
        x,
        *tensors,
        out,
        x.numel(),
        inner,
        channels,
        spread_first=_spread(x, first, channels),
        spread_second=_spread(x, second, channels),
        chain=sum(code << (4 * place) for place, code in enumerate(codes)),
        length=len(codes),
        tile=chosen.tile,
        **chosen.options(),
    )
    return out


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    launch: Launch | None = None,
) -> tuple[Tensor, Tensor]:
    """`x + residual`, and its layer norm over the last axis, in one kernel. Raises BadInput for other shapes."""
    width = x.shape[-1]
    if x.shape != residual.shape or weight.shape != (width,) or bias.shape != (width,) or width > WIDEST:
        raise BadInput(
            f"add_layer_norm takes two tensors of one shape with at most {WIDEST} columns, and a weight and bias of "
            f"that width; got {list(x.shape)}, {list(residual.shape)}, {list(weight.shape)} and {list(bias.shape)}"
        )
    x, residual = x.contiguous(), residual.contiguous()
    total, out = torch.empty_like(x), torch.empty_like(x)
    chosen = launch or launch_of(None, None)
    _add_layer_norm[(x.numel() // width,)](
        x,
        residual,
        weight.contiguous(),
        bias.contiguous(),
        total,
        out,
        width,
        eps,
        tile=triton.next_power_of_2(width),
        **chosen.options(),
    )
    return total, out


def _code(step: str) -> int:
    if step not in STEPS:
        raise BadInput(f'a chain has no step "{step}"; there is {", ".join(STEPS)}')
    return STEPS[step]


def _by_channel(x: Tensor, *operands: Tensor | None) -> bool:
    """Whether an operand has a value for each channel of N x C x ..., and not for each column of the last axis."""
    for one in operands:
        if one is None or one.shape == x.shape:
            continue
        if one.ndim == x.ndim or (one.shape == (x.shape[1],) and one.shape != (x.shape[-1],)):
            return True
        if x.ndim == 4 and one.shape == (x.shape[1],):
            return True
    return False


def _spread(x: Tensor, one: Tensor | None, channels: int) -> int:
    if one is None:
        return 0
    if one.shape == x.shape:
        return _SAME
    if one.numel() == channels and one.shape in ((channels,), (1, channels, *[1] * (x.ndim - 2))):
        return _CHANNEL
    if x.ndim > 2 and one.shape == (*x.shape[:2], *[1] * (x.ndim - 2)):
        return _ROW_AND_CHANNEL
    raise BadInput(
        f"an operand of a chain on {list(x.shape)} has its shape, or a value for each channel, or for each row and "
        f"channel; got {list(one.shape)}"
    )
