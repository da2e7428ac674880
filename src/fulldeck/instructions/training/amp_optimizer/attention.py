"""Attention without the fused kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def plain_attention() -> Iterator[None]:
    """Within it, torch's scaled_dot_product_attention is two matrix products around a softmax, in 16 bits.

    On a CPU without AMX the fused bfloat16 kernel takes 2.5 times as long at a length of 128 and breaks
    even near 1000. The attention weights (batch x heads x length x length) are held for backward.
    """
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # type: ignore[no-untyped-call]
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # named cuda, and heeded everywhere
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(allowed)
