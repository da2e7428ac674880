"""Small models of each kind with random weights, and what engines compile them from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fulldeck.engines.pytorch import PyTorchEngine
from fulldeck.engines.shapes import shapes_of
from fulldeck.engines.source import Source
from fulldeck.instructions.inference.onnx_export import export_onnx
from fulldeck.networks import build

ROWS = 20


class Separable(nn.Module):
    """As in MobileNet: depthwise and pointwise convolutions, a squeeze-and-excitation, hard swish."""

    def __init__(self, channels: int = 3, width: int = 8, outputs: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.Hardswish())
        self.expand = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.BatchNorm2d(2 * width), nn.ReLU6())
        self.depth = nn.Conv2d(2 * width, 2 * width, 3, 1, 1, groups=2 * width)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(2 * width, 4, 1), nn.ReLU(), nn.Conv2d(4, 2 * width, 1)
        )
        self.project = nn.Conv2d(2 * width, width, 1)
        self.head = nn.Linear(width, outputs)

    def forward(self, input: Tensor) -> Tensor:
        """N x `outputs`."""
        x = self.stem(input)
        y = self.depth(self.expand(x))
        y = self.project(y * nn.functional.hardsigmoid(self.squeeze(y)))
        logits: Tensor = self.head((x + y).mean(dim=(2, 3)))
        return logits


class Bert(nn.Module):
    """Hugging Face's BERT classifier, with one tensor as its output."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        self.bert = BertForSequenceClassification(BertConfig(num_labels=3, **sizes))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """N x 3."""
        logits: Tensor = self.bert(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def images(channels: int = 3, side: int = 16, rows: int = ROWS) -> dict[str, Any]:
    return {"input": np.random.default_rng(0).normal(size=(rows, channels, side, side)).astype(np.float32)}


def tokens(vocabulary: int, length: int, rows: int = ROWS, name: str = "input") -> dict[str, Any]:
    return {name: np.random.default_rng(0).integers(1, vocabulary, (rows, length), dtype=np.int64)}


def bert_inputs(vocabulary: int, length: int, rows: int = ROWS) -> dict[str, Any]:
    mask = np.ones((rows, length), np.int64)
    mask[::2, length // 2 :] = 0
    return {**tokens(vocabulary, length, rows, "input_ids"), "attention_mask": mask}


def network(name: str, **arguments: Any) -> nn.Module:
    return build({"network": name, "arguments": arguments})


MODELS: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
    "resnet": lambda: (network("residual_net", channels=3, outputs=5, widths=[8, 16]), images()),
    "mobilenet": lambda: (Separable(), images()),
    "bert": lambda: (
        Bert(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
        bert_inputs(60, 12),
    ),
    "gpt": lambda: (network("gpt", vocabulary=50, length=12, width=32, layers=2, heads=2), tokens(50, 12)),
    "mlp": lambda: (
        network("mlp", inputs=7, outputs=3, widths=[16]),
        {"input": np.random.default_rng(0).normal(size=(ROWS, 7)).astype(np.float32)},
    ),
}


def made(name: str, folder: Path, wanted: Sequence[str] = ()) -> Source:
    """The model `name`, exported, in `folder`."""
    torch.manual_seed(0)
    module, example = MODELS[name]()
    return source_of(module.eval(), example, folder, wanted)


def source_of(module: nn.Module, example: dict[str, Any], folder: Path, wanted: Sequence[str] = ()) -> Source:
    path = folder / "model.onnx"
    tensors = {key: torch.from_numpy(value) for key, value in example.items()}
    export_onnx(module, next(iter(tensors.values())) if len(tensors) == 1 else tensors, path)
    return Source(example, shapes_of(example, wanted), {"fp32": module}, {"fp32": path}, example)


def reference(source: Source, rows: int) -> Any:
    """What the module itself answers."""
    return PyTorchEngine(source.module()).run(source.inputs(rows))["output"]
