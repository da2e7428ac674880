"""Linear layers whose products are of 8-bit floats, forward and backward, by torchao."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from fulldeck.errors import CannotAct, extra

CAPABILITY = (8, 9)
"""NVIDIA's compute capability that multiplies float8 first: Ada; Hopper is 9.0."""
MULTIPLE = 16
"""What both sizes of a layer must be a multiple of."""


class Float8Layers:
    """The linear layers of `model` in float8, in place, but for those in or under modules that are `kept`.

    `emulate` computes the same numbers where the hardware cannot, slowly. Raises CannotAct if no layer fits.
    The parameters are the very same objects, in float32; what is computed from them is not.
    """

    def __init__(self, model: nn.Module, kept: Collection[str], *, emulate: bool = False) -> None:
        self.model = model
        library: Any = extra("torchao.float8", "fp8")
        before = dict(model.named_modules())

        def fits(module: nn.Module, name: str) -> bool:
            sizes = (module.in_features, module.out_features) if type(module) is nn.Linear else (1,)
            return not _under(name, kept) and all(size % MULTIPLE == 0 for size in sizes)

        config = library.Float8LinearConfig(emulate=emulate)
        library.convert_to_float8_training(model, module_filter_fn=fits, config=config)
        after = dict(model.named_modules())
        self.names = [name for name, module in before.items() if after[name] is not module]
        if not self.names:
            raise CannotAct(
                f"float8 needs linear layers whose sizes are multiples of {MULTIPLE}; there is none"
            )
        self._exact = {name: before[name] for name in self.names}
        self._float8 = {name: after[name] for name in self.names}

    @contextmanager
    def only_but(self, kept: Collection[str]) -> Iterator[None]:
        """Within it, the layers compute in float8, but for those in or under `kept`."""
        before = {name: self.model.get_submodule(name) for name in self.names}
        self._put({n: self._exact[n] if _under(n, kept) else self._float8[n] for n in self.names})
        try:
            yield
        finally:
            self._put(before)

    def exact(self) -> AbstractContextManager[None]:
        """Within it, the layers compute as they did."""
        return self.only_but(self.names)

    def remove(self) -> None:
        """Give the model its own layers back."""
        self._put(self._exact)

    def _put(self, layers: dict[str, nn.Module]) -> None:
        for name, module in layers.items():
            self.model.set_submodule(name, module)


def _under(name: str, modules: Collection[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in modules)


def refuse_float8(device: torch.device) -> str | None:
    """Why `device` cannot compute in float8, or None."""
    if device.type != "cuda":
        return "float8 needs an NVIDIA GPU of compute capability 8.9 or newer; write dtype: bfloat16"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) >= CAPABILITY:
        return None
    return f"float8 needs compute capability 8.9 or newer, and this GPU has {major}.{minor}; write dtype: bfloat16"
