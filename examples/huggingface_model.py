"""A factory around a model of Hugging Face's transformers that you have built yourself.

    fulldeck run examples/huggingface_model.yaml

For a model in a folder or on the hub no code is needed: `workload: {kind: huggingface, model: ./folder,
data: reviews.csv}`. A factory is for what that cannot say: a configuration, inputs or a head of your own.
Here a tiny BERT learns whether a row of symbols is in rising order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

SYMBOLS, LENGTH, ROWS = 20, 6, 1200


class Classifier(nn.Module):
    """fulldeck's networks take one tensor and give one: here ids in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = BertForSequenceClassification(
            BertConfig(
                vocab_size=SYMBOLS,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=LENGTH,
                num_labels=2,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )

    def forward(self, input: Tensor) -> Tensor:
        """N x LENGTH ids to N x 2 logits."""
        return self.bert(input_ids=input).logits


def build() -> dict[str, Any]:
    """What `workload: {kind: python}` asks for. Whole numbers reach the model as int64 ids."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(SYMBOLS, (ROWS, LENGTH), generator=random)
    rising = torch.arange(ROWS) % 2 == 0
    ids[rising] = ids[rising].sort(dim=1).values
    ordered = (ids.diff(dim=1) >= 0).all(dim=1).long()
    return {"model": Classifier, "data": (ids, ordered)}
