"""A candidate in integers, but for some layers: what sparing layers and holding a budget need again and again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from fulldeck.candidate import Artifact, Candidate
from fulldeck.data import Array
from fulldeck.instructions.inference.post_training_quantization.onnx_file import (
    quantiser,
    quantize_onnx_by_nncf,
)
from fulldeck.onnx_file import write_onnx

Form = Callable[[Sequence[str]], Candidate]
"""Gives the candidate in integers, with these layers in float."""


@contextlib.contextmanager
def forms_of_file(
    candidate: Candidate,
    artifact: Artifact,
    calibration: Mapping[str, Array],
    *,
    backend: str,
    bit_width: Literal[8, 4],
    **how: Any,
) -> Iterator[Form]:
    """Forms of the candidate's ONNX file by `backend`, all in one place; `how` is as in `quantize_onnx`."""
    precision = f"int{bit_width}"
    path = candidate.folder / f"model.{precision}.onnx"
    made = Artifact(path, "onnx", precision, artifact.engine)
    if backend == "nncf":
        transformer = candidate.data.kind in ("text", "tokens")

        def by_nncf(keep: Sequence[str]) -> Candidate:
            quantize_onnx_by_nncf(artifact.path, path, calibration, transformer=transformer, keep=keep)
            return candidate.with_artifact(made)

        yield by_nncf
        return
    with quantiser(artifact.path, calibration, bit_width=bit_width, **how) as quantise:

        def by_onnxruntime(keep: Sequence[str]) -> Candidate:
            write_onnx(quantise(keep), path)
            return candidate.with_artifact(made)

        yield by_onnxruntime
