"""PyTorch as it is: the module in eager mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Array = npt.NDArray[Any]


class PyTorchEngine:
    """Runs a module that takes one tensor, or one keyword argument for each of several inputs."""

    name = "torch"

    def __init__(self, module: nn.Module, output: str = "output") -> None:
        self.module = module.eval()
        self.output = output
        first = next(iter(module.parameters()), None)
        self._device = first.device if first is not None else torch.device("cpu")

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name (batch first) to `{output: array}`."""
        tensors = {
            name: torch.from_numpy(np.require(v, requirements=["C", "W"])).to(self._device)
            for name, v in inputs.items()
        }
        result = self.module(next(iter(tensors.values()))) if len(tensors) == 1 else self.module(**tensors)
        return {self.output: result.float().cpu().numpy()}
