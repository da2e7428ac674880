"""Apache TVM: the module (or its ONNX file) to native code for this processor, without tuning unless asked for.

Untuned code is many times slower than that of the other engines; tuning takes trials, of a second or so each.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import tvm
from tvm import relax

from fulldeck.device import cpu_threads
from fulldeck.engines.compiled_file import Compiled, open_compiled, write_compiled
from fulldeck.engines.processor import traits
from fulldeck.engines.shapes import all_fixed
from fulldeck.engines.signature import Signature
from fulldeck.engines.source import Settings, Source
from fulldeck.engines.torch_compiled import export_program
from fulldeck.errors import BadInput, CannotAct
from fulldeck.installed import is_installed
from fulldeck.logs import quiet

Array = npt.NDArray[Any]

NAME, LIBRARY = "tvm", "apache-tvm"
_SUFFIX = ".so"


class TvmEngine:
    """Native code that TVM compiled, on its virtual machine; one call at a time."""

    name = NAME

    def __init__(self, library: Path, signature: Signature, outputs: tuple[str, ...]) -> None:
        self.signature = signature
        self.outputs = outputs
        self._device = tvm.cpu()
        self._main = relax.VirtualMachine(tvm.runtime.load_module(str(library)), self._device)["main"]
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name (batch first) to outputs by name."""
        self.signature.check(inputs)
        tensors = [tvm.runtime.tensor(inputs[name], self._device) for name in self.signature.inputs]
        with self._lock:
            results = self._main(*tensors)
            several = [results] if isinstance(results, tvm.runtime.Tensor) else list(results)
            return {name: one.numpy() for name, one in zip(self.outputs, several, strict=True)}


def convert(source: Source, precision: str, folder: Path, settings: Settings) -> Path:
    """Compile the fp32 module for this processor, or the ONNX file where there is no module.

    Raises CannotAct for another precision, for an operator that TVM does not know, and where it is to tune without
    fixed sizes.
    """
    if precision != "fp32":
        raise CannotAct("TVM is given fp32 only: it would compute other precisions without fast kernels")
    if settings.tuning_trials and not all_fixed(source.shapes):
        words = (
            f"--shapes {name}={'x'.join(str(one.best) for one in axes)}"
            for name, axes in source.shapes.items()
        )
        raise CannotAct(f"TVM tunes for fixed sizes only: {' '.join(words)}")
    if settings.tuning_trials and not is_installed("xgboost"):
        # The extra does not bring it: its wheel pulls CUDA's libraries.
        raise CannotAct("TVM tunes with a model of costs that needs: pip install xgboost cloudpickle")
    target = tvm.target.Target(
        {"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu(), "num-cores": cpu_threads()}
    )
    with tempfile.TemporaryDirectory(prefix="fulldeck-") as name:
        library = Path(name) / f"model{_SUFFIX}"
        try:
            # The module first: it keeps free sizes where the ONNX frontend loses them.
            if "fp32" in source.modules:
                module, names, outputs = _from_torch(source)
            else:
                module, names, outputs = _from_onnx(source.onnx_file(precision, folder))
            if settings.tuning_trials:
                module = relax.get_pipeline(
                    "static_shape_tuning",
                    target=target,
                    total_trials=settings.tuning_trials,
                    work_dir=str(Path(name) / "tuning"),
                )(module)
            tvm.compile(module, target).export_library(str(library))
        except CannotAct:
            raise
        except Exception as error:  # TVM raises many classes, whose common base is Exception
            raise CannotAct(f"TVM cannot compile the model: {_reason(error)}") from error
        out = folder / f"model.{precision}.tvm"
        ordered = Signature({one: source.signature.inputs[one] for one in names})
        write_compiled(out, library, Compiled(NAME, precision, tuple(traits(LIBRARY)), ordered, outputs))
    return out


def _from_torch(source: Source) -> tuple[Any, list[str], tuple[str, ...]]:
    """The module for TVM, and the names of its inputs and outputs in their order."""
    from tvm.relax.frontend.torch import from_exported_program

    program = export_program(source.module().eval(), source)
    names = list(source.example)
    if len(names) > 1:
        names = [name for name in program.graph_signature.user_inputs if name in source.example]
    with quiet(logging.ERROR):
        return from_exported_program(program), names, (source.output,)


def _from_onnx(path: Path) -> tuple[Any, list[str], tuple[str, ...]]:
    from tvm.relax.frontend.onnx import from_onnx

    model = onnx.load(path)
    names = [one.name for one in model.graph.input]
    return from_onnx(model), names, tuple(one.name for one in model.graph.output)


def load(path: Path, *, precision: str, threads: int) -> TvmEngine:
    """The native code of `path`. Raises BadInput if it was changed, or is for another machine."""
    if threads:
        tvm.get_global_func("runtime.config_threadpool")(1, threads)
    with open_compiled(path, NAME, traits(LIBRARY), _SUFFIX) as (facts, library):
        try:
            return TvmEngine(library, facts.signature, facts.outputs)
        except (RuntimeError, OSError) as error:
            raise BadInput(f"TVM cannot load {path.name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:200]
