"""PyTorch compiled ahead of time: an AOTInductor package, loaded without Python compiling anything.

int8 goes through torchao's PT2E: with calibration rows the ranges of activations are fixed beforehand, without
them they are found anew in every call.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fulldeck.engines.compiled_file import Compiled, open_compiled, write_compiled
from fulldeck.engines.processor import traits
from fulldeck.engines.pytorch import in_precision
from fulldeck.engines.shapes import Range, Shapes
from fulldeck.engines.source import Settings, Source
from fulldeck.errors import BadInput, CannotAct, extra
from fulldeck.logs import quiet

Array = npt.NDArray[Any]

NAME, LIBRARY = "torch_compiled", "torch"
CALIBRATED_AT_ONCE = 32
_SUFFIX = ".pt2"
_OPTIONS = {
    # Weights become constants, which are laid out for this processor's kernels once.
    "freezing": True,
    # Who serves it decides on the threads, not who compiled it.
    "cpp.dynamic_threads": True,
}


class CompiledTorchEngine:
    """An AOTInductor package. One call at a time runs in it; others wait."""

    name = NAME

    def __init__(self, package: Path, facts: Compiled) -> None:
        from torch._inductor import aoti_load_package

        self.signature = facts.signature
        self._output = facts.outputs[0]
        self._device = torch.device(facts.device)
        self._package = aoti_load_package(str(package))

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name (batch first) to `{output: array}`."""
        self.signature.check(inputs)
        tensors = [
            torch.from_numpy(np.require(inputs[name], requirements=["C", "W"])).to(self._device)
            for name in self.signature.inputs
        ]
        # The loader itself: calling the package would read its description anew each time.
        result = self._package.loader.run(tensors)[0]
        return {self._output: result.cpu().numpy()}


def convert(source: Source, precision: str, folder: Path, settings: Settings) -> Path:
    """Compile the module for this processor (or for the GPU that it is on), which takes some seconds to minutes.

    Raises CannotAct if the module cannot be exported or compiled, with the first thing in the way.
    """
    if precision in source.modules:
        program = export_program(source.modules[precision].eval(), source)
    elif precision == "int8":
        program = quantized_program(source.module().eval(), source)
    else:
        program = export_program(in_precision(source.module().eval(), precision), source)
    return compile_program(program, source, precision, folder / f"model.{precision}.aoti")


def export_program(module: nn.Module, source: Source) -> ExportedProgram:
    """`module` as a graph that takes the sizes of `source`.

    Raises CannotAct if its forward pass cannot be written as one, as where it branches on values.
    """
    inputs = traced_inputs(source, _device(module))
    arguments, named = (tuple(inputs.values()), {}) if len(inputs) == 1 else ((), inputs)
    free = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for name, axes in dynamic_axes(source.shapes).items():
        free[inputs[name]] = axes
    with quiet(logging.ERROR), torch.no_grad():
        try:
            shapes = free.dynamic_shapes(module, arguments, named)  # type: ignore[no-untyped-call]
            return torch.export.export(module, arguments, kwargs=named, dynamic_shapes=shapes)
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            raise CannotAct(f"the model cannot be exported as one graph: {_reason(error)}") from error


def quantized_program(module: nn.Module, source: Source) -> ExportedProgram:
    """`module` with int8 weights and activations, for the kernels of x86 processors.

    With `source.calibration` ranges of activations are learnt from it. `module` is not changed.
    """
    if _device(module).type != "cpu":
        raise CannotAct("PT2E quantises for x86 processors; on a GPU use bf16, or TensorRT for int8")
    with quiet(logging.ERROR):  # torchao complains of kernels for GPUs
        pt2e = extra("torchao.quantization.pt2e.quantize_pt2e", "int8")
        x86 = extra("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer", "int8")
    rows = source.calibration
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_dynamic=rows is None))
    graph = export_program(copy.deepcopy(module), source).module()
    with quiet(logging.ERROR), torch.no_grad():
        try:
            prepared = pt2e.prepare_pt2e(graph, quantizer)
            # Dynamic ranges need a pass as well: the observers see the shapes.
            for part in _parts(rows if rows is not None else source.example):
                prepared(next(iter(part.values()))) if len(part) == 1 else prepared(**part)
            converted = pt2e.convert_pt2e(prepared)
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            raise CannotAct(f"the model cannot be quantised: {_reason(error)}") from error
    return export_program(converted, source)


def compile_program(program: ExportedProgram, source: Source, precision: str, path: Path) -> Path:
    """Write the native code of `program` to `path`, with what it takes and what it needs of the machine."""
    from torch._inductor import aoti_compile_and_package

    device = _device(program)
    with tempfile.TemporaryDirectory(prefix="fulldeck-") as name, quiet(logging.ERROR), torch.no_grad():
        try:
            package = aoti_compile_and_package(
                program, package_path=str(Path(name) / f"model{_SUFFIX}"), inductor_configs=dict(_OPTIONS)
            )
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            raise CannotAct(f"the model cannot be compiled: {_reason(error)}") from error
        facts = Compiled(
            NAME, precision, tuple(_traits(device)), source.signature, (source.output,), device.type
        )
        write_compiled(path, Path(package), facts)
    return path


def load(path: Path, *, precision: str, threads: int) -> CompiledTorchEngine:
    """The package in `path`. Raises BadInput if it was changed, or is for another machine."""
    if threads:
        torch.set_num_threads(threads)
    with open_compiled(path, NAME, [*_traits(torch.device("cpu")), *_traits(_gpu())], _SUFFIX) as (
        facts,
        package,
    ):
        try:
            with quiet(logging.ERROR):
                return CompiledTorchEngine(package, facts)
        except (RuntimeError, OSError) as error:
            raise BadInput(f"PyTorch cannot load {path.name}: {_reason(error)}") from error


def traced_inputs(source: Source, device: torch.device) -> dict[str, Tensor]:
    """Rows of the example in sizes that no compiler takes for a constant: at least 2 where a size is free."""
    return {
        name: torch.from_numpy(_resized(value, source.shapes[name])).to(device)
        for name, value in source.example.items()
    }


def dynamic_axes(shapes: Shapes) -> dict[str, dict[int, Any]]:
    """By input, the free axes. Axes of one place and one range are one size, such as the batch of all inputs."""
    dims: dict[tuple[int, Range], Any] = {}
    for axes in shapes.values():
        for place, one in enumerate(axes):
            if not one.fixed:
                name = "batch" if place == 0 else f"axis{place}_{len(dims)}"
                dims.setdefault((place, one), Dim(name, min=one.low, max=one.high))
    return {
        name: {place: dims[place, one] for place, one in enumerate(axes) if not one.fixed}
        for name, axes in shapes.items()
    }


def _resized(value: Array, axes: tuple[Range, ...]) -> Array:
    for place, one in enumerate(axes):
        size = (
            one.low if one.fixed else min(max(value.shape[place], one.low, 2), one.high or value.shape[place])
        )
        value = value.take(np.arange(size) % value.shape[place], axis=place)
    return np.ascontiguousarray(value)


def _parts(rows: Mapping[str, Array]) -> Iterator[dict[str, Tensor]]:
    count = len(next(iter(rows.values())))
    for start in range(0, count, CALIBRATED_AT_ONCE):
        yield {
            name: torch.from_numpy(np.ascontiguousarray(value[start : start + CALIBRATED_AT_ONCE]))
            for name, value in rows.items()
        }


def _device(module: nn.Module | ExportedProgram) -> torch.device:
    tensors = module.state_dict.values() if isinstance(module, ExportedProgram) else module.parameters()
    first = next(iter(tensors), None)
    return first.device if first is not None else torch.device("cpu")


def _gpu() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _traits(device: torch.device) -> list[str]:
    if device.type == "cpu":
        return traits(LIBRARY)
    major, minor = torch.cuda.get_device_capability(device)
    return traits(LIBRARY, f"cuda sm_{major}{minor}")


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line[:300]
