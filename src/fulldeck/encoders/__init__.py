"""How one raw item, as a person has it, becomes a model's input: the same code in training and serving.

An encoder imports neither torch nor a training library, so that a server starts light.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from fulldeck.errors import BadInput


@runtime_checkable
class Encoder(Protocol):
    """Raw items to the model's input arrays."""

    kind: ClassVar[str]
    """image, table, text, tokens or tensor; also the name of the module that holds the class."""

    lazy: ClassVar[bool]
    """True: encode batch by batch (cheap, and the result is large). False: encode the data once."""

    def encode(self, inputs: Any) -> dict[str, npt.NDArray[Any]]:
        """N raw inputs (`fulldeck.data.Inputs`) to the model's inputs by name, N rows each."""
        ...

    def parse(self, item: bytes | str | Mapping[str, Any] | list[Any]) -> Any:
        """One item as a person sends it (file content, text, row, nested list) to a raw input.

        Raises BadInput in one line.
        """
        ...

    def collect(self, items: list[Any]) -> Any:
        """Several parsed items to `Inputs`."""
        ...

    def to_json(self) -> dict[str, Any]:
        """All that `from_json` needs; plain JSON, since a package holds no pickle."""
        ...

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self: ...


def load_encoder(value: Mapping[str, Any]) -> Encoder:
    """The encoder that `to_json` described, with `kind` naming it. Raises BadInput for an unknown kind."""
    kind = value.get("kind")
    if kind == "image":
        from fulldeck.encoders.image import ImageEncoder

        return ImageEncoder.from_json(value)
    if kind == "table":
        from fulldeck.encoders.table import TableEncoder

        return TableEncoder.from_json(value)
    if kind == "text":
        from fulldeck.encoders.text import TextEncoder

        return TextEncoder.from_json(value)
    if kind == "tokens":
        from fulldeck.encoders.tokens import TokenEncoder

        return TokenEncoder.from_json(value)
    if kind == "tensor":
        from fulldeck.encoders.tensor import TensorEncoder

        return TensorEncoder.from_json(value)
    raise BadInput(f"unknown encoder kind {kind!r}; there is image, table, text, tokens, tensor")


def text_of(item: Any) -> str:
    """A text, or its bytes in UTF-8. Raises BadInput for anything else."""
    try:
        text = item.decode("utf-8") if isinstance(item, bytes) else item
        if not isinstance(text, str):
            raise BadInput("send a text")
        text.encode("utf-8")
    except UnicodeError:
        raise BadInput("the text is not valid UTF-8") from None
    return text


def numeric(item: Any, what: str) -> npt.NDArray[np.float32]:
    """A nested list of numbers as an array. Raises BadInput if it is ragged, not numeric or not finite."""
    try:
        array = np.asarray(item, dtype=np.float32)
    except (TypeError, ValueError):
        raise BadInput(f"{what} must be a nested list of numbers of one shape") from None
    if not np.isfinite(array).all():
        raise BadInput(f"{what} must hold finite numbers only")
    return array
