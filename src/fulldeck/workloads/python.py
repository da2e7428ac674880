"""A user's own code: a function that returns model, data, loss and metrics."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor, nn

from fulldeck.data import Data
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.errors import BadInput
from fulldeck.param import param
from fulldeck.workload import Workload

if TYPE_CHECKING:
    from fulldeck.sources.factory import Brought
    from fulldeck.training.batch import LossFunction, Metric


class Python(Workload):
    """Whatever `factory()` returns: a mapping with these keys, a tuple in this order, or an object with

    - `model`: a function that builds an untrained module (so that `train.seed` decides its weights), or
      a module;
    - `data`: `{"train": part, "validation": part, "test": part}`, of which only train is needed, or one
      part; a part is (inputs, targets), two arrays or tensors with N rows each, or a
      `torch.utils.data.Dataset` of such pairs, which is read into memory. Inputs reach the model as
      float32, or as int64 if they are whole numbers;
    - `loss`, optional: a function of outputs and targets that gives a mean over the batch. Left out:
      cross-entropy for whole-number targets, squared error for others;
    - `metrics`, optional: names to functions of all outputs and targets. Left out: accuracy, or r2.

    This runs the user's code, but not before `load`: describing a recipe does not import it.
    """

    kind: ClassVar[str] = "python"
    data_kind: ClassVar[str] = "unknown"
    task: ClassVar[str] = "unknown"

    factory: str = param(..., doc='The function, as "package.module:function".')
    path: str = param(".", doc="Folder to import from, besides the one where the command runs.")

    @property
    def name(self) -> str:
        """The module's last name."""
        module = self.factory.partition(":")[0]
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", module.rpartition(".")[2]) or self.kind

    def load(self) -> Data:
        """Call the factory and take its data.

        Raises BadInput if it cannot be imported, if it returns something else, and for data that are
        empty, of one class only, not numbers, or not finite.
        """
        from fulldeck.sources.factory import called, find_function, take

        notes: list[str] = []
        brought = take(
            called(find_function(self.factory, Path(self.path)), self.factory), self.factory, notes
        )
        if isinstance(brought.model, nn.Module):
            notes.append("the factory returns a module, so train.seed does not decide its first weights")
        train = brought.parts["train"]
        whole = train.targets.dtype.kind == "i"
        if len(np.unique(train.targets)) < 2:
            raise BadInput(f"the train targets of {self.factory} are all the same; two classes are needed")
        most = max(int(part.targets.max()) for part in brought.parts.values())
        data = Data(
            self.name,
            "tensor",
            "classification" if whole else "regression",
            train,
            brought.parts.get("validation"),
            brought.parts.get("test"),
            classes=tuple(str(number) for number in range(most + 1)) if whole else (),
            notes=tuple(notes),
        )
        return data.carrying(self.kind, brought)

    def encoder(self, data: Data) -> TensorEncoder:
        """Passes inputs through."""
        assert isinstance(data.train.inputs, np.ndarray)
        return TensorEncoder(data.train.inputs.shape[1:], str(data.train.inputs.dtype))

    def model(self, data: Data) -> nn.Module:
        """A new one from the factory's function, or a copy of its module.

        Raises BadInput if the function returns something else.
        """
        model = _brought(data).model
        if isinstance(model, nn.Module):
            return copy.deepcopy(model)
        built = model()
        if not isinstance(built, nn.Module):
            raise BadInput(f"model of {self.factory} builds no torch module, but {type(built).__name__}")
        return built

    def loss(self, data: Data) -> LossFunction:
        """The factory's, or the usual one for the targets.

        Targets of a regression are given to it in the shape of the outputs: `[N]` against `[N, 1]` would be
        broadcast to N x N in silence.
        """
        own = _brought(data).loss
        if own is None:
            return super().loss(data)
        return own if data.task == "classification" else partial(_in_one_shape, own)

    def metrics(self, data: Data) -> Mapping[str, Metric]:
        """The factory's, or the usual ones for the targets."""
        own = _brought(data).metrics
        if own is None:
            return super().metrics(data)
        if data.task == "classification":
            return own
        return {name: partial(_in_one_shape, metric) for name, metric in own.items()}


def _in_one_shape(function: Callable[[Any, Tensor], Any], outputs: Any, targets: Tensor) -> Any:
    fits = isinstance(outputs, Tensor) and outputs.numel() == targets.numel()
    return function(outputs, targets.reshape(outputs.shape) if fits else targets)


def _brought(data: Data) -> Brought:
    brought: Brought = data.carried[Python.kind]
    return brought
