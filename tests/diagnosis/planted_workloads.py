"""Workloads with a bottleneck planted in them, each too gross to be missed on a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fulldeck.data import Data, Examples
from fulldeck.encoders import Encoder
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.param import param
from fulldeck.workload import TrainingDefaults, Workload

ROWS = 256


class SlowEncoder(TensorEncoder):
    """Reads a batch as a far-away disk would."""

    lazy: ClassVar[bool] = True

    def encode(self, inputs: Any) -> dict[str, Any]:
        time.sleep(0.03)
        return super().encode(inputs)


class Elementwise(nn.Module):
    """Multiplications and additions of large tensors, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, inputs: Tensor) -> Tensor:
        values = inputs * self.scale[0]
        for _ in range(6):
            values = torch.relu(values * 1.01 + 0.01)
        return values.reshape(len(values), 2, -1).mean(dim=2) * self.scale


class TinyKernels(nn.Module):
    """Operator after operator on a handful of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, inputs: Tensor) -> Tensor:
        values = inputs[:, :2] * self.scale
        for _ in range(80):
            values = values + 0.001
        return values


class Table(nn.Module):
    """An embedding table of which each step touches a few rows, and updates all."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, width)
        self.head = nn.Linear(width, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.table(inputs).mean(dim=1))


def products() -> nn.Module:
    return nn.Sequential(nn.Linear(768, 768), nn.ReLU(), nn.Linear(768, 768), nn.ReLU(), nn.Linear(768, 2))


class Broken(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        raise ZeroDivisionError("planted\nin two lines")


class Nan(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * float("nan")


@dataclass(frozen=True)
class Plant:
    inputs: Callable[[np.random.Generator], np.ndarray]
    model: Callable[[], nn.Module]
    batch_size: int = 32
    slow: bool = False


def _floats(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda random: random.standard_normal((ROWS, *shape)).astype(np.float32)


def _ids(real: int, length: int, vocabulary: int) -> Callable[[np.random.Generator], np.ndarray]:
    def make(random: np.random.Generator) -> np.ndarray:
        rows = np.zeros((ROWS, length), dtype=np.int64)
        rows[:, :real] = random.integers(1, vocabulary, (ROWS, real))
        return rows

    return make


PLANTS: Mapping[str, Plant] = {
    "slow_loader": Plant(_floats(8), lambda: nn.Linear(8, 2), slow=True),
    "padding": Plant(_ids(8, 64, 100), lambda: Table(100, 16)),
    "elementwise": Plant(_floats(32_768), Elementwise),
    "tiny_kernels": Plant(_floats(4), TinyKernels, batch_size=4),
    "embedding_table": Plant(_ids(4, 4, 150_000), lambda: Table(150_000, 64)),
    "products": Plant(_floats(768), products, batch_size=256),
    "broken": Plant(_floats(4), lambda: Broken(4, 2)),
    "nan": Plant(_floats(4), lambda: Nan(4, 2)),
}


class Planted(Workload):
    """One of PLANTS."""

    kind: ClassVar[str] = "planted"
    data_kind: ClassVar[str] = "tensor"
    task: ClassVar[str] = "classification"
    defaults: ClassVar[TrainingDefaults] = TrainingDefaults(epochs=1, learning_rate=1e-4)

    plant: str = param(..., doc="Which.")

    def load(self) -> Data:
        random = np.random.default_rng(0)
        inputs = PLANTS[self.plant].inputs(random)
        whole = Examples(inputs, random.integers(0, 2, ROWS))
        few = whole.take(np.arange(8))
        return Data(self.name, "tensor", "classification", whole, few, few, classes=("0", "1"))

    def encoder(self, data: Data) -> Encoder:
        assert isinstance(data.train.inputs, np.ndarray)
        kind = SlowEncoder if PLANTS[self.plant].slow else TensorEncoder
        return kind(data.train.inputs.shape[1:], str(data.train.inputs.dtype))

    def model(self, data: Data) -> nn.Module:
        return PLANTS[self.plant].model()
