"""PyTorch as it is: the module in eager mode."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fulldeck.engines.signature import Signature
from fulldeck.engines.source import Settings, Source
from fulldeck.errors import BadInput, CannotAct

Array = npt.NDArray[Any]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The floating-point types that a module can be converted to, by precision."""


class PyTorchEngine:
    """Runs a module that takes one tensor, or one keyword argument for each of several inputs.

    With a `signature` inputs are checked against it; without one, what does not fit raises PyTorch's own error.
    """

    name = "torch"

    def __init__(self, module: nn.Module, output: str = "output", signature: Signature | None = None) -> None:
        self.module = module.eval()
        self.output = output
        self.signature = signature
        first = next(iter(module.parameters()), None)
        self._device = first.device if first is not None else torch.device("cpu")

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name (batch first) to `{output: array}`."""
        if self.signature is not None:
            self.signature.check(inputs)
        tensors = {
            name: torch.from_numpy(np.require(v, requirements=["C", "W"])).to(self._device)
            for name, v in inputs.items()
        }
        result = self.module(next(iter(tensors.values()))) if len(tensors) == 1 else self.module(**tensors)
        return {self.output: result.float().cpu().numpy()}


def lower(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert `module` in place to another floating-point type; it takes and gives float32 all the same.

    By hooks, so that its forward keeps its signature, which exporters look at.
    """

    def lowered(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    def before(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        return tuple(map(lowered, inputs)), {name: lowered(value) for name, value in named.items()}

    module.to(dtype)
    module.register_forward_pre_hook(before, with_kwargs=True)
    module.register_forward_hook(lambda _, inputs, output: output.float())
    return module


def in_precision(module: nn.Module, precision: str) -> nn.Module:
    """`module` itself for fp32, else a copy of it in another floating-point type.

    Raises CannotAct for a precision that is not one of DTYPES.
    """
    if precision == "fp32":
        return module
    if precision not in DTYPES:
        raise CannotAct(f"PyTorch has no {precision} by conversion alone; torch_compiled quantises")
    return lower(copy.deepcopy(module), DTYPES[precision]).eval()


def convert(source: Source, precision: str, folder: Path, settings: Settings) -> Path:
    """The weights as safetensors, with the description of the built-in network that they belong to.

    Raises CannotAct for a module that is not built in: a file of weights cannot rebuild it.
    """
    from safetensors.torch import save_file

    from fulldeck.files import write_with
    from fulldeck.networks import describe

    module = source.module()
    description = describe(module)
    if description is None:
        raise CannotAct(
            f"{type(module).__name__} is no network of fulldeck, and a file of weights cannot rebuild it"
        )
    dtype = DTYPES[precision]
    weights = {
        # Copies: safetensors refuses tensors that share memory.
        name: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous().clone()
        for name, value in module.state_dict().items()
    }
    # Not model.safetensors: that is the name of the trained weights of a run.
    path = folder / f"network.{precision}.safetensors"
    metadata = {"network": json.dumps(description), "inputs": json.dumps(source.signature.to_json())}
    write_with(path, partial(save_file, weights, metadata=metadata))
    return path


def load(path: Path, *, precision: str, threads: int) -> PyTorchEngine:
    """The built-in network that `path` describes, with its weights. Raises BadInput if it is none."""
    from safetensors import safe_open

    from fulldeck.engines import network_in

    description = network_in(path)
    with safe_open(path, "pt") as file:
        inputs = file.metadata().get("inputs")
    signature = Signature.from_json(json.loads(inputs)) if inputs else None
    return open_weights(description, path, precision=precision, threads=threads, signature=signature)


def open_weights(
    description: Mapping[str, Any],
    weights: Path,
    *,
    precision: str = "fp32",
    threads: int = 0,
    signature: Signature | None = None,
) -> PyTorchEngine:
    """The built-in network of `description` with these weights; `threads` 0 leaves their number as it is.

    Raises BadInput for weights of another network, or a file that was cut off.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from fulldeck.networks import build

    if threads:
        torch.set_num_threads(threads)
    module = build(description)
    try:
        module.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{weights.name} does not hold the weights of its network: {reason}") from error
    # Loaded in float32 and converted: rounding twice changes nothing.
    if precision != "fp32":
        lower(module, DTYPES[precision])
    return PyTorchEngine(module, signature=signature)
