"""A workload: data, a model for it, what it is trained for and what it is judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from fulldeck.data import Data
from fulldeck.declared import Declared
from fulldeck.encoders import Encoder
from fulldeck.training.token_mean import IGNORED, TokenMean

if TYPE_CHECKING:
    from fulldeck.candidate import Candidate
    from fulldeck.training.batch import LossFunction, Metric


@dataclass(frozen=True)
class TrainingDefaults:
    """What `train:` in a recipe falls back to."""

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2


class Workload(Declared):
    """Base of the built-in workloads and of the adapters for a user's own data.

    Fields are the keys of `workload:` in a recipe.
    """

    kind: ClassVar[str]
    """The recipe's `kind`, or the name of a built-in workload."""
    data_kind: ClassVar[str]
    """image, table, text, tokens or tensor; `unknown` where only the user's code can tell."""
    task: ClassVar[str]
    """classification, regression, language_modelling; `unknown` where only the data can tell."""
    defaults: ClassVar[TrainingDefaults] = TrainingDefaults()

    @classmethod
    def spoken_name(cls) -> str:
        return f"workload {cls.kind}"

    @property
    def name(self) -> str:
        """The model's name in results and URLs."""
        return self.kind

    def load(self) -> Data:
        """Read the data: everything in `train`, unless the source says what belongs to which split.

        Raises BadInput for a missing file, absent columns, empty data, one class only or NaN in inputs.
        """
        raise NotImplementedError

    def encoder(self, data: Data) -> Encoder:
        """What turns raw inputs into the model's, fitted on `data.train` only."""
        raise NotImplementedError

    def model(self, data: Data) -> nn.Module:
        """An untrained model for encoded `data`. Draws from torch's global generator."""
        raise NotImplementedError

    def loss(self, data: Data) -> LossFunction:
        """The mean loss over a batch; for classification it also takes targets as probabilities.

        For regression it is in units of the variance of the train targets: 1 for predicting their mean.
        For language modelling it is the mean over tokens, in nats.
        """
        if data.task == "classification":
            return nn.functional.cross_entropy
        if data.task == "language_modelling":
            return TokenMean(surprise)
        return partial(squared_error, variance=float(data.train.targets.var()))

    def metrics(self, data: Data) -> Mapping[str, Metric]:
        """Name to a function of all outputs and targets; the first is the one that gates compare.

        For language modelling that is the share of tokens foreseen: what instructions may lose is meant in
        points of it. Perplexity is in its exponent, so no fixed loss of it fits every model.
        """
        return usual_metrics(data.task)

    def samples(self, candidate: Candidate) -> list[dict[str, str]]:
        """What a language model writes: `prompt` and `text` of each sample. Others have none."""
        return []

    def optimizer(
        self, learning_rate: float, weight_decay: float
    ) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
        """AdamW; weight decay spares what is not a matrix (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

        def build(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
            every = list(parameters)
            groups: list[dict[str, Any]] = [
                {"params": [p for p in every if p.ndim >= 2], "weight_decay": weight_decay},
                {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0},
            ]
            return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, fused=True)

        return build


def usual_metrics(task: str) -> Mapping[str, Metric]:
    """What a task is judged by where nobody says otherwise; the first is the one that gates compare."""
    if task == "language_modelling":
        return {"accuracy": TokenMean(foreseen), "perplexity": TokenMean(surprise, torch.exp)}
    return {"accuracy": accuracy} if task == "classification" else {"r2": r2}


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of rows whose largest of N x C logits is at the target class."""
    return float((outputs.argmax(dim=1) == targets).double().mean())


def surprise(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each of M tokens, in nats, of M x V logits; 0 where the target is IGNORED."""
    return nn.functional.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)


def foreseen(logits: Tensor, targets: Tensor) -> Tensor:
    """1 for each of M tokens that is the likeliest of M x V logits, else 0."""
    return (logits.argmax(dim=-1) == targets).double()


def r2(outputs: Tensor, targets: Tensor) -> float:
    """Coefficient of determination of N (or N x 1) predictions."""
    residual = (outputs.reshape(-1) - targets.reshape(-1)).square().sum()
    total = (targets - targets.mean()).square().sum()
    return float(1 - residual / total)


def squared_error(outputs: Tensor, targets: Tensor, variance: float = 1.0) -> Tensor:
    """Mean squared error of N (or N x 1) predictions, divided by `variance`."""
    return nn.functional.mse_loss(outputs.reshape(-1), targets.reshape(-1)) / variance


def encoded(workload: Workload, data: Data) -> Data:
    """`data` with an encoder; one that an instruction has fitted before is kept."""
    return data if data.encoder is not None else replace(data, encoder=workload.encoder(data))
