"""A factory that takes model, loss and data from a LightningModule that you have.

    fulldeck run examples/lightning_module.yaml

Nothing in the module changes. What fulldeck takes over is the loop: `configure_optimizers` is not called
(the recipe's `train:` and `lr_scheduler` decide), nor are Lightning's callbacks and loggers.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class WineClassifier(lightning.LightningModule):
    """A module as you may have it: network, loss and data in one class."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(13, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.05)

    def forward(self, x: Tensor) -> Tensor:
        """N x 13 to N x 3."""
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        x, y = batch
        return self.criterion(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Lightning's way to say what fulldeck's recipe says."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    def train_dataloader(self) -> DataLoader[Any]:
        """All 178 wines; fulldeck splits them."""
        x, y = load_wine(return_X_y=True)
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        rows = TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
        return DataLoader(rows, batch_size=16, shuffle=True)


def build() -> dict[str, Any]:
    """What `workload: {kind: python}` asks for."""
    module = WineClassifier()
    return {
        "model": WineClassifier,  # the class, so that train.seed decides the first weights
        "loss": module.criterion,  # what training_step computes from outputs and targets
        "data": module.train_dataloader().dataset,  # the set, not the loader: fulldeck makes the batches
    }
