"""A small transformer encoder for token ids (Vaswani et al. 2017, arXiv:1706.03762)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

PADDING = 0


class TextTransformer(nn.Module):
    """N x `length` token ids, 0 for padding, to N x `outputs` logits.

    Learnt positions, `layers` blocks with normalisation before attention and feed-forward, and the mean
    over the tokens that are no padding. Every text must have at least one.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        outputs: int,
        *,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "vocabulary": vocabulary,
            "length": length,
            "outputs": outputs,
            "width": width,
            "layers": layers,
            "heads": heads,
            "dropout": dropout,
        }
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.positions = nn.Parameter(torch.zeros(length, width))
        nn.init.normal_(self.tokens.weight, std=0.1)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, input: Tensor) -> Tensor:
        """N x `outputs`."""
        real = input != PADDING
        mask = real[:, None, None, :]
        x = self.dropout(self.tokens(input) + self.positions)
        for block in self.blocks:
            x = block(x, mask)
        weight = real.unsqueeze(-1).to(x.dtype)
        mean = (self.norm(x) * weight).sum(dim=1) / weight.sum(dim=1)
        logits: Tensor = self.head(self.dropout(mean))
        return logits


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward net of four times the width, each added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 4 * width)
        self.activation = nn.GELU()
        self.feed_out = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """N x L x `width`; `mask` (N x 1 x 1 x L) is True where a token may be looked at."""
        joint = self.query_key_value(self.attention_norm(x))
        query, key, value = joint.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.dropout(self.attention_output(attended.transpose(1, 2).flatten(2)))
        feed = self.feed_out(self.activation(self.feed_in(self.feed_norm(x))))
        result: Tensor = x + self.dropout(feed)
        return result
