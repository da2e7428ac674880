"""Breast cancer: 569 rows of 30 numbers measured on cell nuclei, benign or malignant.

Source: Wolberg et al. 1993, "Breast Cancer Wisconsin (Diagnostic)", UCI (CC BY 4.0), as shipped with
scikit-learn.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import nn

from fulldeck.data import Data, Examples
from fulldeck.encoders.table import TableEncoder
from fulldeck.networks.mlp import Mlp
from fulldeck.workload import TrainingDefaults, Workload


class BreastCancer(Workload):
    """scikit-learn's table, and a multi-layer perceptron."""

    kind: ClassVar[str] = "breast_cancer"
    data_kind: ClassVar[str] = "table"
    task: ClassVar[str] = "classification"
    defaults: ClassVar[TrainingDefaults] = TrainingDefaults(epochs=40, batch_size=32)

    def load(self) -> Data:
        """All 569 rows in `train`; scikit-learn gives no split."""
        from sklearn.datasets import load_breast_cancer

        source = load_breast_cancer()
        columns = {
            str(name).replace(" ", "_"): source.data[:, place].astype(np.float64)
            for place, name in enumerate(source.feature_names)
        }
        classes = tuple(str(name) for name in source.target_names)
        examples = Examples(columns, source.target.astype(np.int64))
        return Data(self.name, "table", "classification", examples, classes=classes)

    def encoder(self, data: Data) -> TableEncoder:
        """Standardised by the train part."""
        assert isinstance(data.train.inputs, dict)
        return TableEncoder.fit(data.train.inputs)

    def model(self, data: Data) -> nn.Module:
        """Two hidden layers."""
        assert isinstance(data.encoder, TableEncoder)
        return Mlp(data.encoder.width, 2, widths=(64, 32))
