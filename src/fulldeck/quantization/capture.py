"""A model as one graph of operators, with its own parameters, and who is to blame where that cannot be had."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fulldeck.errors import CannotAct
from fulldeck.logs import quiet
from fulldeck.training.batch import Tensors


def capture(model: nn.Module, inputs: Tensors) -> GraphModule:
    """The graph that `model` computes on `inputs` (a batch of two rows or more), in its present mode.

    The graph has the model's own parameters and buffers, by their names, and takes batches of any size; other
    sizes of the inputs stay free where the model leaves them so. Raises CannotAct, with the module at fault,
    where what is computed depends on values of the data, or on what cannot be followed.
    """
    arguments: tuple[Tensor, ...] = ()
    named: dict[str, Tensor] = {}
    shapes: Any
    if isinstance(inputs, Tensor):
        arguments, shapes = (inputs,), (_free(inputs),)
    else:
        named, shapes = dict(inputs), {name: _free(value) for name, value in inputs.items()}
    with bare(model), quiet(), torch.no_grad():
        try:
            program = torch.export.export(model, arguments, named, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # whatever the model's own code raises when it is followed
            raise CannotAct(uncapturable(model, error)) from error
        return program.module(check_guards=False)


def _free(value: Tensor) -> dict[int, Any]:
    return dict.fromkeys(range(value.ndim), torch.export.Dim.AUTO)


@contextlib.contextmanager
def bare(model: nn.Module) -> Iterator[None]:
    """Within it no module of `model` has hooks or a compiled form: both belong to the training, not to the model."""
    kept = []
    for module in model.modules():
        kept.append((module, module._forward_hooks, module._forward_pre_hooks, module._compiled_call_impl))
        module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, after, before, compiled in kept:
            module._forward_hooks, module._forward_pre_hooks = after, before
            module._compiled_call_impl = compiled


def uncapturable(model: nn.Module, error: BaseException) -> str:
    """One line: which module of `model` raised `error` when it was followed, where, why, and what to do."""
    while error.__cause__ is not None:
        error = error.__cause__
    names = {id(module): name or type(model).__name__ for name, module in model.named_modules()}
    place = ""
    step: TracebackType | None = error.__traceback__
    while step is not None:
        owner = step.tb_frame.f_locals.get("self")
        if id(owner) in names and step.tb_frame.f_code.co_name == "forward":
            code = step.tb_frame.f_code
            place = (
                f" at {names[id(owner)]} ({type(owner).__name__}, "
                f"{code.co_filename.rpartition('/')[2]}:{step.tb_lineno})"
            )
        step = step.tb_next
    text = str(error).strip() or type(error).__name__
    depends = "data-dependent" in text.lower() or "DataDependent" in type(error).__name__
    reason = (
        "what it computes depends on values of the data"
        if depends
        else f"{type(error).__name__}: {text.splitlines()[0]}"
    )
    advice = (
        "write the branch with torch.where or torch.cond"
        if depends
        else "write that part with operators of torch"
    )
    return (
        f"the model cannot be captured as a graph{place}: {reason}; {advice}, or leave this instruction out"
    )
