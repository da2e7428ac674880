"""TensorRT on an NVIDIA GPU: an ONNX file to a plan for this very GPU.

Written from the documentation of TensorRT 10 and 11; it has not been run here. TensorRT 11 takes the types of a
model from its file (networks are strongly typed), TensorRT 10 may choose lower ones where a flag allows them.

Reference: docs.nvidia.com/deeplearning/tensorrt, "Migrating from TensorRT 10.x to 11.x"; trtexec.
"""

from __future__ import annotations

import shlex
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fulldeck.engines.compiled_file import Compiled, open_compiled, write_compiled
from fulldeck.engines.processor import traits
from fulldeck.engines.shapes import Shapes
from fulldeck.engines.signature import Signature
from fulldeck.engines.source import Settings, Source
from fulldeck.errors import BadInput, CannotAct, extra

Array = npt.NDArray[Any]

NAME, LIBRARY = "tensorrt", "tensorrt"
STRONGLY_TYPED_SINCE = 11
FLAGS = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
"""Flags of TensorRT 10's builder, gone in 11."""
_SUFFIX = ".plan"


class TensorRtEngine:
    """A plan in one execution context; one call at a time."""

    name = NAME

    def __init__(self, plan: bytes, signature: Signature, outputs: tuple[str, ...]) -> None:
        trt = extra("tensorrt", "tensorrt")
        self.signature = signature
        self.outputs = outputs
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BadInput("TensorRT refused the plan; compile it again here with: fulldeck compile RUN")
        self._context = self._engine.create_execution_context()
        self._types = {name: _torch_type(trt, self._engine.get_tensor_dtype(name)) for name in outputs}
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name (batch first) to outputs by name."""
        self.signature.check(inputs)
        with self._lock:
            tensors = {
                name: torch.from_numpy(np.require(inputs[name], requirements=["C", "W"])).cuda()
                for name in self.signature.inputs
            }
            for name, tensor in tensors.items():
                self._context.set_input_shape(name, tuple(tensor.shape))
                self._context.set_tensor_address(name, tensor.data_ptr())
            results = {}
            for name in self.outputs:
                shape = tuple(self._context.get_tensor_shape(name))
                results[name] = torch.empty(shape, dtype=self._types[name], device="cuda")
                self._context.set_tensor_address(name, results[name].data_ptr())
            stream = torch.cuda.current_stream()
            if not self._context.execute_async_v3(stream.cuda_stream):
                raise RuntimeError("TensorRT could not run the plan")
            stream.synchronize()
            return {name: result.float().cpu().numpy() for name, result in results.items()}


def convert(source: Source, precision: str, folder: Path, settings: Settings) -> Path:
    """Build a plan for the GPU of this machine.

    Raises CannotAct for a file that TensorRT cannot parse or has no kernels for, and for a workspace that is too
    small.
    """
    trt = extra("tensorrt", "tensorrt")
    path = typed_file(source, precision, folder, major(trt.__version__))
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    if not parser.parse_from_file(str(path)):
        reasons = [parser.get_error(place).desc() for place in range(parser.num_errors)]
        raise CannotAct(f"TensorRT cannot parse {path.name}: {(reasons or ['it does not say why'])[0]}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace << 20)
    if precision in FLAGS and major(trt.__version__) < STRONGLY_TYPED_SINCE:
        config.set_flag(getattr(trt.BuilderFlag, FLAGS[precision]))
    profile = builder.create_optimization_profile()
    for name, axes in source.shapes.items():
        profile.set_shape(name, *([getattr(one, which) for one in axes] for which in ("low", "best", "high")))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise CannotAct(
            f"TensorRT found no kernels for the model within a workspace of {settings.workspace} MiB; give it "
            f"more: --workspace {2 * settings.workspace}"
        )
    outputs = tuple(network.get_output(place).name for place in range(network.num_outputs))
    facts = Compiled(NAME, precision, tuple(_traits()), source.signature, outputs, "cuda")
    out = folder / f"model.{precision}.tensorrt"
    with tempfile.TemporaryDirectory(prefix="fulldeck-") as name:
        code = Path(name) / f"model{_SUFFIX}"
        code.write_bytes(bytes(plan))
        write_compiled(out, code, facts)
    return out


def load(path: Path, *, precision: str, threads: int) -> TensorRtEngine:
    """The plan in `path`. Raises BadInput if it was changed, or was built for another GPU or version."""
    with open_compiled(path, NAME, _traits(), _SUFFIX) as (facts, plan):
        return TensorRtEngine(plan.read_bytes(), facts.signature, facts.outputs)


def typed_file(source: Source, precision: str, folder: Path, version: int) -> Path:
    """The ONNX file to build `precision` from: for int8, and since TensorRT 11 always, one of that very precision.

    Raises CannotAct if there is none.
    """
    typed = precision == "int8" or version >= STRONGLY_TYPED_SINCE
    if typed and precision not in source.onnx:
        raise CannotAct(
            f"TensorRT {version} takes types from the file, and there is no {precision} ONNX file of the model"
        )
    return source.onnx_file(precision if typed else "fp32", folder)


def trtexec(path: Path, precision: str, shapes: Shapes, settings: Settings, version: int) -> str:
    """The command of NVIDIA's `trtexec` that builds the same plan elsewhere, to paste into a shell."""
    words = ["trtexec", f"--onnx={path}", f"--saveEngine={path.stem}.plan"]
    words.append(f"--memPoolSize=workspace:{settings.workspace}")
    if precision in FLAGS and version < STRONGLY_TYPED_SINCE:
        words.append(f"--{precision}")
    for option, which in (("minShapes", "low"), ("optShapes", "best"), ("maxShapes", "high")):
        sizes = (
            f"{name}:{'x'.join(str(getattr(one, which)) for one in axes)}" for name, axes in shapes.items()
        )
        words.append(f"--{option}={','.join(sizes)}")
    return shlex.join(words)


def major(version: str) -> int:
    """`10` of 10.16.1.11."""
    return int(version.partition(".")[0])


def _traits() -> list[str]:
    capability = (
        ".".join(map(str, torch.cuda.get_device_capability())) if torch.cuda.is_available() else "none"
    )
    return [*traits(LIBRARY), f"compute capability {capability}"]


def _torch_type(trt: Any, kind: Any) -> torch.dtype:
    """TensorRT's types have the same names as NumPy's, except for bf16, which NumPy has not."""
    if kind == trt.DataType.BF16:
        return torch.bfloat16
    dtype: torch.dtype = getattr(torch, np.dtype(trt.nptype(kind)).name)
    return dtype
