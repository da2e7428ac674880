"""A small GPT: a decoder-only transformer that predicts the next token.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; rotary positions: Su et al. 2021,
arXiv:2104.09864; tied embeddings: Press & Wolf 2016, arXiv:1608.05859.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

BASE = 10_000.0
"""Of the wavelengths of the rotary positions, from 2 pi to nearly 2 pi times this."""
DEVIATION = 0.02
"""Standard deviation of the first weights (GPT-2)."""


class Gpt(nn.Module):
    """N x T token ids, T at most `length`, to N x T x `vocabulary` logits of the tokens that come next.

    The output at a token depends on that token and those before it only, so padding at the end changes
    nothing. `width` must be a multiple of twice `heads`. With `tied`, the embedding is the output layer too.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        *,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "vocabulary": vocabulary,
            "length": length,
            "width": width,
            "layers": layers,
            "heads": heads,
            "dropout": dropout,
            "tied": tied,
        }
        self.tokens = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(dropout)
        blocks = [GptBlock(width, length, heads, dropout) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        self.head = None if tied else nn.Linear(width, vocabulary, bias=False)
        self.apply(_first_weights)
        for block in blocks:
            # What 2 x layers branches add to the residual stream together has the variance of one.
            for last in (block.attention.output, block.feed_out):
                nn.init.normal_(last.weight, std=DEVIATION / math.sqrt(2 * layers))

    def forward(self, input: Tensor) -> Tensor:
        """N x T x `vocabulary`."""
        x = self.dropout(self.tokens(input))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        logits: Tensor = linear(x, self.tokens.weight) if self.head is None else self.head(x)
        return logits


class GptBlock(nn.Module):
    """Causal attention and a feed-forward net of four times the width, each added to its input."""

    def __init__(self, width: int, length: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalAttention(width, length, heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 4 * width)
        self.activation = nn.GELU()
        self.feed_out = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """N x T x `width`."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        feed = self.feed_out(self.activation(self.feed_in(self.feed_norm(x))))
        result: Tensor = x + self.dropout(feed)
        return result


class CausalAttention(nn.Module):
    """Each token looks at itself and at those before it; where they stand is in the rotation of both."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, width: int, length: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        half = width // heads // 2
        angles = torch.outer(torch.arange(length), BASE ** -(torch.arange(half) / half))
        # Not saved: they follow from the arguments.
        self.register_buffer("cosines", torch.cat([angles.cos()] * 2, dim=1), persistent=False)
        self.register_buffer("sines", torch.cat([angles.sin()] * 2, dim=1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """N x T x `width`."""
        joint = self.query_key_value(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(self.rotated(query), self.rotated(key), value, is_causal=True)
        result: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return result

    def rotated(self, x: Tensor) -> Tensor:
        """N x heads x T x size, each pair of halves turned by an angle that grows with the position."""
        one, other = x.chunk(2, dim=-1)
        cosines, sines = self.cosines[: x.shape[2]], self.sines[: x.shape[2]]
        return (x * cosines + torch.cat([-other, one], dim=-1) * sines).to(x.dtype)


def _first_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=DEVIATION)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
