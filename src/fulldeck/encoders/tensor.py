"""Arrays that are the model's input already: what a user's own factory brings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from fulldeck.encoders import numeric
from fulldeck.errors import BadInput


@dataclass(frozen=True)
class TensorEncoder:
    """Passes arrays of `shape` (one item, without the batch) through as `dtype`."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    kind: ClassVar[str] = "tensor"
    lazy: ClassVar[bool] = True

    def encode(self, inputs: Any) -> dict[str, npt.NDArray[Any]]:
        """N x shape to `input`: the same, as `dtype`."""
        return {"input": np.ascontiguousarray(inputs, dtype=self.dtype)}

    def parse(self, item: bytes | str | Mapping[str, Any] | list[Any]) -> npt.NDArray[Any]:
        """A nested list of numbers of `shape`."""
        if not isinstance(item, list):
            raise BadInput(f"send a nested list of numbers of shape {list(self.shape)}")
        array = numeric(item, "the item").astype(self.dtype)
        if array.shape != self.shape:
            raise BadInput(f"the item must have shape {list(self.shape)}, got {list(array.shape)}")
        return array

    def collect(self, items: list[Any]) -> npt.NDArray[Any]:
        """Stack items to one array."""
        return np.stack(items)

    def to_json(self) -> dict[str, Any]:
        """Shape and dtype."""
        return {"kind": self.kind, "shape": list(self.shape), "dtype": self.dtype}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(tuple(value["shape"]), value["dtype"])
