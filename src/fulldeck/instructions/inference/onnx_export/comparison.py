"""Whether an ONNX file computes what the module does, at several batches and lengths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fulldeck.data import Array
from fulldeck.engines import open_onnx
from fulldeck.engines.pytorch import PyTorchEngine
from fulldeck.errors import CannotAct, RunFailed
from fulldeck.instructions.inference.onnx_export.conversion import OUTPUT, Dynamic, is_tokens, max_length

BATCHES = (1, 3, 17)
"""Batch sizes at which an export is compared with the module: none is the one that it was traced with."""


def compare(
    module: nn.Module, path: Path, inputs: Mapping[str, Array], max_difference: float, dynamic: Dynamic
) -> dict[int, float]:
    """The largest difference at each of BATCHES; raises RunFailed if one is over it.

    With a free length shorter ones than that of `inputs` are compared too.
    """
    import onnx

    onnx.checker.check_model(str(path))
    reference, exported = PyTorchEngine(module, OUTPUT), open_onnx(path)
    lengths: list[int | None] = [None]
    if dynamic == "length":
        longest = max_length(inputs)
        lengths += sorted({max(2, longest // 2), max(2, longest - 1)})
    differences = dict.fromkeys(BATCHES, 0.0)
    for batch in BATCHES:
        for length in lengths:
            rows = {
                name: value[np.resize(np.arange(len(value)), batch), : length if is_tokens(value) else None]
                for name, value in inputs.items()
            }
            at = f"batch {batch}" + (f", length {length}" if length else "")
            found = _difference(reference, exported, rows, at, max_difference)
            differences[batch] = max(differences[batch], found)
    return differences


def _difference(
    reference: Any, exported: Any, rows: Mapping[str, Array], at: str, max_difference: float
) -> float:
    try:
        expected = reference.run(rows)[OUTPUT]
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise CannotAct(f"the model itself does not run at {at}: {reason}") from error
    try:
        got = exported.run(rows)[OUTPUT]
    except Exception as error:  # ONNX Runtime's errors have no common base class but Exception
        reason = str(error).splitlines()[0]
        raise RunFailed(f"the ONNX export does not run at {at}: {reason}") from error
    if got.shape != expected.shape:
        raise RunFailed(
            f"the ONNX export gives shape {list(got.shape)} at {at}, the module "
            f"{list(expected.shape)}; its forward pass may fix the batch size"
        )
    difference = float(np.abs(got.astype(np.float64) - expected).max())
    allowed = max_difference * max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:
        raise RunFailed(
            f"the ONNX export differs from the module by {difference:.2g} at {at}, and {allowed:.2g} is "
            "allowed; set max_difference if that is acceptable"
        )
    return difference
