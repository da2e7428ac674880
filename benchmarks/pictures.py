"""The images of Fashion-MNIST and CIFAR-10, from files beside the project, and a small net for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fulldeck.networks.residual_net import ResidualNet
from fulldeck.sources.channel_statistics import channel_statistics
from fulldeck.training.loader import ShuffledSampler
from fulldeck.workloads.images import Images

FILES = {"fashion_mnist": "fashion_mnist.npz", "cifar10": "cifar10.parquet"}
"""Names in the folder that --data names: arrays x_train, y_train, x_test, y_test; columns split, label, jpeg."""


@dataclass(frozen=True)
class Pictures:
    """Images (N x C x H x W, uint8) and labels of the official split."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def net(self, seed: int, *, stem_stride: int = 1, widths: tuple[int, ...] = (32, 64, 128)) -> ResidualNet:
        """The net of the workload `images`, for images between 0 and 1."""
        torch.manual_seed(seed)
        mean, std = channel_statistics(self.train[0].numpy())
        channels = self.train[0].shape[1]
        return ResidualNet(channels, 10, widths=widths, stem_stride=stem_stride, mean=mean, std=std)


def read_pictures(folder: Path, name: str) -> Pictures:
    """Every image of `name` (a key of FILES) below `folder`."""
    path = folder / FILES[name]
    if not path.is_file():
        raise SystemExit(f"{path} is missing; --data names the folder that has {FILES[name]}")
    data = Images.model_validate({"path": str(path)}).load()
    parts = []
    for word in ("train", "test"):
        examples = data.splits()[word]
        images = torch.from_numpy(np.ascontiguousarray(examples.inputs))
        parts.append((images, torch.from_numpy(np.ascontiguousarray(examples.targets))))
    return Pictures(*parts)


class Batches:
    """Shuffled batches of images as floats in 0..1, for the training loop."""

    def __init__(self, pictures: tuple[Tensor, Tensor], batch_size: int, seed: int) -> None:
        self.images, self.labels = pictures
        self.batch_size = batch_size
        self.sampler = ShuffledSampler(len(self.labels), seed)

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Those of one epoch; what is left over at its end is left out."""
        order = torch.from_numpy(self.sampler.indices(epoch))
        for number in range(skip, len(self)):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield self.images[rows].float() / 255, self.labels[rows]


@torch.no_grad()
def accuracy(model: nn.Module, pictures: tuple[Tensor, Tensor]) -> float:
    """Share of the images that `model`, in evaluation mode, is right about."""
    images, labels = pictures
    right = 0
    for start in range(0, len(labels), 500):
        chosen = slice(start, start + 500)
        right += int((model(images[chosen].float() / 255).argmax(1) == labels[chosen]).sum())
    return right / len(labels)
