"""What runs a model: one file each, behind one small protocol, by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from fulldeck.errors import BadInput, closest

if TYPE_CHECKING:
    from fulldeck.candidate import Artifact

Array = npt.NDArray[Any]

ENGINES = {"torch": "torch", "onnxruntime": "onnxruntime"}
"""Name of an engine to the module that must be installed for it."""


class Engine(Protocol):
    """A loaded model. `run` may be called from several threads."""

    name: str

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name (batch first) to outputs by name."""
        ...


def available() -> dict[str, str | None]:
    """Each engine's name to None, or to the reason why it cannot be used here."""
    return {
        name: None if find_spec(module) else f"{module} is not installed: pip install {module}"
        for name, module in ENGINES.items()
    }


def known(name: str) -> str:
    """`name`, if it is an engine. Raises BadInput with the closest name."""
    if name not in ENGINES:
        raise BadInput(
            f'unknown engine "{name}"{closest(name, ENGINES)}; there is auto, {", ".join(ENGINES)}'
        )
    return name


def open_artifact(artifact: Artifact, *, threads: int = 0) -> Engine:
    """The engine that `artifact` is meant for, loaded with it; `threads` 0 leaves the number to it."""
    return open_onnx(artifact.path, threads=threads)


def open_onnx(path: Path, *, threads: int = 0) -> Engine:
    """An ONNX file in ONNX Runtime."""
    from fulldeck.engines.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(path, threads=threads)


def open_network(description: Mapping[str, Any], weights: Path, *, threads: int = 0) -> Engine:
    """A built-in network (see `fulldeck.networks`) with safetensors `weights`, in PyTorch."""
    import torch
    from safetensors.torch import load_file

    from fulldeck.engines.pytorch import PyTorchEngine
    from fulldeck.networks import build

    if threads:
        torch.set_num_threads(threads)
    module = build(description)
    module.load_state_dict(load_file(weights))
    return PyTorchEngine(module)
