"""A module as an ONNX model: with free axes, names of its own, and nothing of the machine that it was made on."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fulldeck.data import Array
from fulldeck.errors import CannotAct
from fulldeck.quantization.capture import capture, uncapturable

if TYPE_CHECKING:
    from onnx import ModelProto

Dynamic = Literal["batch", "length"]
OUTPUT = "output"
_SCOPES = "pkg.torch.onnx.name_scopes"


def convert(module: nn.Module, inputs: Mapping[str, Array], opset: int, dynamic: Dynamic) -> ModelProto:
    """`module` as an ONNX model with free axes, checked by nobody yet. Raises CannotAct with the first reason."""
    # Two rows: a batch of one would be taken for a constant.
    tensors = {
        name: torch.from_numpy(np.resize(value, (2, *value.shape[1:]))) for name, value in inputs.items()
    }
    single = next(iter(tensors.values())) if len(tensors) == 1 else None
    with torch.inference_mode():
        output = module(single) if single is not None else module(**tensors)
    if not isinstance(output, Tensor):
        raise CannotAct(
            f"the model must return one tensor to be exported, and returns {type(output).__name__}"
        )
    shapes = free_axes(inputs, dynamic)
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                (single,) if single is not None else (),
                kwargs=None if single is not None else tensors,
                input_names=list(tensors),
                output_names=[OUTPUT],
                dynamic_shapes=tuple(shapes.values()) if single is not None else shapes,
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise CannotAct(_why_not(module, tensors, error)) from error
    assert program is not None
    proto: ModelProto = program.model_proto
    return proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and dumps of the graph from the console."""
    loggers = [logging.getLogger("torch.onnx"), logging.getLogger("torch.fx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _why_not(module: nn.Module, tensors: Mapping[str, Tensor], error: BaseException) -> str:
    """One line: which module and operator are in the way, and what to do."""
    inner = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    operator = re.search(r"op='([\w.]+)'", str(inner))
    if operator is None:
        return uncapturable(module, error)
    graph = capture(module, next(iter(tensors.values())) if len(tensors) == 1 else dict(tensors))
    of = ""
    for node in graph.graph.nodes:
        if str(node.target).startswith(operator[1]):
            stack = [
                path.removeprefix("L['self'].") for path, _ in node.meta.get("nn_module_stack", {}).values()
            ]
            of = f" of {stack[-1] or type(module).__name__}" if stack else ""
            break
    return (
        f"the model cannot be exported to ONNX: operator {operator[1]}{of} has no form there; write that part with "
        "others, or leave onnx_export out (engine torch_compiled takes the module)"
    )


def free_axes(inputs: Mapping[str, Array], dynamic: Dynamic) -> dict[str, dict[int, Any]]:
    """By input, the axes that are left free, by their names: the batch, and the length of what are tokens.

    Tokens are integers of two axes or more.
    """
    batch = torch.export.Dim("batch")
    # Not below 2: a length of one would be another program.
    length = torch.export.Dim("length", min=2, max=max_length(inputs)) if dynamic == "length" else None
    return {
        name: {0: batch, 1: length} if length is not None and is_tokens(value) else {0: batch}
        for name, value in inputs.items()
    }


def is_tokens(value: Array) -> bool:
    return value.ndim >= 2 and value.dtype.kind in "iu"


def max_length(inputs: Mapping[str, Array]) -> int:
    """The length of the example, which is the longest. Raises CannotAct where there are no tokens."""
    lengths = {value.shape[1] for value in inputs.values() if is_tokens(value)}
    if len(lengths) != 1:
        raise CannotAct(
            "a free length is for tokens (integers), all of one length; leave dynamic: length out"
        )
    return int(lengths.pop())


def clean(proto: ModelProto, metadata: Mapping[str, str]) -> None:
    """Give weights the names of their modules, `metadata` to the file, and take out paths and stack traces."""
    name_weights(proto)
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)


def name_weights(proto: ModelProto) -> None:
    """Call transposed weights of products, which the exporter only numbers, `MODULE.weight`."""
    graph = proto.graph
    taken = {tensor.name for tensor in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for tensor in graph.initializer:
        if "." in tensor.name or [node.op_type for node in readers.get(tensor.name, ())] != ["MatMul"]:
            continue
        node = readers[tensor.name][0]
        scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), "[]")
        modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
        name = f"{modules[-1]}.weight" if modules else ""
        if name and name not in taken:
            node.input[:] = [name if one == tensor.name else one for one in node.input]
            tensor.name = name
            taken.add(name)
