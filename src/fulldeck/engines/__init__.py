"""What runs a model: one file each, behind one small protocol, by name.

Each engine's module has two functions: `convert` makes the file that the engine runs from a `Source`, `load`
opens it. `onnxruntime` and `openvino` run ONNX files as they are; `torch` runs safetensors of a built-in
network; the others compile native code for this very machine (`compiled_file`).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy.typing as npt

from fulldeck.errors import BadInput, closest

if TYPE_CHECKING:
    from fulldeck.candidate import Artifact
    from fulldeck.engines.signature import Signature
    from fulldeck.engines.source import Settings, Source

Array = npt.NDArray[Any]


class Engine(Protocol):
    """A loaded model. `run` may be called from several threads."""

    name: str

    @property
    def signature(self) -> Signature | None:
        """What it takes; None if it cannot tell, as a module of one's own."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name (batch first) to outputs by name.

        Raises BadInput for an input that is missing or of another type or shape than the model takes.
        """
        ...


class EngineModule(Protocol):
    """What the module of each engine has."""

    def convert(self, source: Source, precision: str, folder: Path, settings: Settings) -> Path:
        """Make the file that the engine runs, in `folder`, and return it (an ONNX file may be used as it is).

        Raises CannotAct with the reason if the engine cannot run this model in `precision` here.
        """
        ...

    def load(self, path: Path, *, precision: str, threads: int) -> Engine:
        """The model of a file that `convert` made. Raises BadInput if it cannot be loaded."""
        ...


@dataclass(frozen=True)
class Card:
    """What is known of an engine without importing it."""

    module: str
    """Its file in this package."""
    needs: str
    """The Python module that must be installed for it."""
    kind: str
    """The kind of file that it runs: onnx, safetensors, or its own."""
    precisions: tuple[str, ...]
    get: str
    """What to type to get it."""
    optional: bool = True
    """Whether fulldeck does without it."""


ENGINES = {
    "torch": Card("pytorch", "torch", "safetensors", ("fp32", "bf16"), "pip install torch", False),
    "torch_compiled": Card(
        "torch_compiled", "torch", "aoti", ("fp32", "bf16", "int8"), "install a C++ compiler (g++)"
    ),
    "onnxruntime": Card(
        "onnx_runtime",
        "onnxruntime",
        "onnx",
        ("fp32", "fp16", "int8", "int4"),
        "pip install onnxruntime",
        False,
    ),
    "openvino": Card(
        "openvino",
        "openvino",
        "onnx",
        ("fp32", "bf16", "fp16", "int8", "int4"),
        'pip install "fulldeck[openvino]"',
    ),
    "tvm": Card("tvm", "tvm", "tvm", ("fp32",), 'pip install "fulldeck[tvm]"'),
    "tensorrt": Card(
        "tensorrt",
        "tensorrt",
        "tensorrt",
        ("fp32", "bf16", "fp16", "int8"),
        "on a machine with an NVIDIA GPU, pip install tensorrt",
    ),
}
"""Each engine by name, the plainest first."""


def available() -> dict[str, str | None]:
    """Each engine's name to None, or to the reason why it cannot be used here, and how to get it."""
    return {name: why_not(name) for name in ENGINES}


def why_not(name: str) -> str | None:
    """Why engine `name` cannot be used here, as `reason: remedy`; None if it can."""
    card = ENGINES[name]
    if not installed(name):
        return f"{card.needs} is not installed: {card.get}"
    if name == "torch_compiled":
        from fulldeck.engines.processor import cpp_compiler

        return None if cpp_compiler() else f"it compiles C++, and there is no compiler: {card.get}"
    if name == "tensorrt" and not _has_gpu():
        return f"this machine has no NVIDIA GPU: {card.get}"
    return None


def installed(name: str) -> bool:
    """Whether what engine `name` needs is installed, so that a file that is made for it can be opened."""
    return name in ENGINES and find_spec(ENGINES[name].needs) is not None


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def known(name: str) -> str:
    """`name`, if it is an engine. Raises BadInput with the closest name."""
    if name not in ENGINES:
        raise BadInput(
            f'unknown engine "{name}"{closest(name, ENGINES)}; there is auto, {", ".join(ENGINES)}'
        )
    return name


def engine_module(name: str) -> EngineModule:
    """The module of engine `name`. Raises BadInput if it is not available here, saying how to get it."""
    if not installed(known(name)):
        raise BadInput(f"engine {name} is not available: {why_not(name)}")
    return cast(EngineModule, importlib.import_module(f"{__name__}.{ENGINES[name].module}"))


def open_artifact(artifact: Artifact, *, threads: int = 0) -> Engine:
    """The engine that `artifact` is meant for, loaded with it; `threads` 0 leaves the number to it."""
    return open_model(
        artifact.path,
        kind=artifact.kind,
        precision=artifact.precision,
        engine=artifact.engine,
        threads=threads,
    )


def open_model(path: Path, *, kind: str, precision: str, engine: str, threads: int = 0) -> Engine:
    """The file `path` in `engine`. Raises BadInput for an engine that is not here or takes no such kind."""
    card = ENGINES[known(engine)]
    if kind != card.kind:
        raise BadInput(f"{path.name} is of kind {kind}, and engine {engine} runs {card.kind}")
    return engine_module(engine).load(path, precision=precision, threads=threads)


def open_onnx(path: Path, *, threads: int = 0) -> Engine:
    """An ONNX file in ONNX Runtime."""
    return open_model(path, kind="onnx", precision="fp32", engine="onnxruntime", threads=threads)


def open_network(
    description: Mapping[str, Any],
    weights: Path,
    *,
    threads: int = 0,
    precision: str = "fp32",
    signature: Signature | None = None,
) -> Engine:
    """A built-in network (see `fulldeck.networks`) with safetensors `weights`, in PyTorch."""
    from fulldeck.engines.pytorch import open_weights

    return open_weights(description, weights, precision=precision, threads=threads, signature=signature)


def network_in(weights: Path) -> dict[str, Any]:
    """The built-in network whose description is kept in the safetensors file `weights`.

    Raises BadInput if it keeps none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, "numpy") as file:
            described = (file.metadata() or {}).get("network")
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{weights.name} is no whole safetensors file: {error}") from error
    if described is None:
        raise BadInput(f"{weights.name} says nothing of the network that its weights belong to")
    content: dict[str, Any] = json.loads(described)
    return content
