"""Handwritten digits: 1,797 grey images of 8 x 8 pixels, the default workload.

Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI (CC BY 4.0), as shipped
with scikit-learn.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from torch import nn

from fulldeck.data import Data, Examples
from fulldeck.encoders.image import ImageEncoder
from fulldeck.networks import build
from fulldeck.param import param
from fulldeck.sources.channel_statistics import channel_statistics
from fulldeck.workload import TrainingDefaults, Workload


class Digits(Workload):
    """scikit-learn's digits, and a residual net of 308,000 parameters or a mobile net of 64,000."""

    kind: ClassVar[str] = "digits"
    data_kind: ClassVar[str] = "image"
    task: ClassVar[str] = "classification"
    defaults: ClassVar[TrainingDefaults] = TrainingDefaults(
        epochs=30, batch_size=64, learning_rate=3e-3, weight_decay=5e-2
    )

    network: Literal["residual_net", "mobile_net"] = param(
        "residual_net", doc="The network: residual_net, or mobile_net, which is a fifth of its size."
    )

    def load(self) -> Data:
        """All 1,797 images in `train`; scikit-learn gives no split."""
        from sklearn.datasets import load_digits

        source = load_digits()
        # The source has 17 grey levels; a picture that somebody sends has 256.
        images = np.rint(source.images * (255 / 16)).astype(np.uint8)[:, None]
        targets = source.target.astype(np.int64)
        classes = tuple(str(digit) for digit in range(10))
        return Data(self.name, "image", "classification", Examples(images, targets), classes=classes)

    def encoder(self, data: Data) -> ImageEncoder:
        """Grey, 8 x 8."""
        return ImageEncoder(channels=1, height=8, width=8)

    def model(self, data: Data) -> nn.Module:
        """Three stages: of one residual block each, or of two inverted residuals each."""
        mean, std = channel_statistics(data.train.inputs)
        arguments = {"channels": 1, "outputs": 10, "mean": mean, "std": std}
        return build({"network": self.network, "arguments": arguments})
