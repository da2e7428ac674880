"""The forms of a run's model that engines compile: what the run has, and what instructions of the deck make."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from fulldeck.calibration import calibration_rows
from fulldeck.candidate import Artifact, Candidate
from fulldeck.catalogue import catalogue
from fulldeck.engines.shapes import Shapes, shapes_of
from fulldeck.engines.source import Source
from fulldeck.errors import BadInput, CannotAct
from fulldeck.run_folder import RESULT

CALIBRATION_ROWS = 256
EXAMPLE_ROWS = 4
_MADE_BY = {"fp32": frozenset({"export"}), "int8": frozenset({"dtype", "artifact"})}
"""Precision of an ONNX file to what the instruction touches that makes one."""


def gather(
    run: Path,
    candidate: Candidate,
    precisions: Collection[str],
    wanted: Sequence[str],
    tell: Callable[[str], None],
) -> tuple[Source, list[str]]:
    """What can be compiled, and why something could not be made.

    ONNX files that the run has are used; others are made in its `artifacts` folder. `wanted` are the sizes as on
    the command line. Raises BadInput where the data of the run do not fit them.
    """
    example = candidate.example(EXAMPLE_ROWS)
    shapes = shapes_of(example, wanted)
    _check_fits(candidate, shapes)
    onnx = _files_of(run)
    modules: dict[str, nn.Module] = {"fp32": candidate.module}
    notes = []
    for precision in _MADE_BY:
        if precision in onnx or (precision != "fp32" and precision not in precisions):
            continue
        tell(f"making the {precision} form")
        try:
            made = _make(precision, candidate, onnx)
        except CannotAct as error:
            notes.append(f"no {precision} ONNX file: {error}")
            continue
        if (
            made.artifact is not None
            and made.artifact.kind == "onnx"
            and made.artifact.precision == precision
        ):
            onnx[precision] = made.artifact.path
        if made.module is not candidate.module and made.precision == precision:
            modules[precision] = made.module
    calibration = None
    if "int8" in precisions and "int8" not in modules:
        train = candidate.data.train
        rows = calibration_rows(
            train.targets,
            min(CALIBRATION_ROWS, len(train)),
            classes=candidate.data.task == "classification",
        )
        calibration = candidate.encoded(train.take(rows))
    return Source(example, shapes, modules, onnx, calibration), notes


def _files_of(run: Path) -> dict[str, Path]:
    """The run's ONNX files by precision; of several, the newest."""
    listed = json.loads((run / RESULT).read_bytes())["artifacts"]
    files = {one["precision"]: run / one["path"] for one in listed if one["kind"] == "onnx"}
    return {precision: path for precision, path in files.items() if path.is_file()}


def _make(precision: str, candidate: Candidate, onnx: dict[str, Path]) -> Candidate:
    """What the instruction makes of the candidate that touches what is to be changed for `precision`."""
    if precision != "fp32" and "fp32" in onnx:
        exported = Artifact(onnx["fp32"], "onnx", "fp32", "onnxruntime")
        candidate = replace(candidate, artifacts=(exported,))
    for entry in catalogue():
        if entry.stage == "inference" and _MADE_BY[precision] <= set(entry.touches):
            instruction, _ = entry.load().suggest(candidate.data)
            return instruction.optimise(candidate)
    raise CannotAct(f"no instruction makes a model of {precision}")


def _check_fits(candidate: Candidate, shapes: Shapes) -> None:
    for name, value in candidate.example(1).items():
        if any(size not in one for size, one in zip(value.shape[1:], shapes[name][1:], strict=True)):
            sizes = "x".join(map(str, value.shape[1:]))
            raise BadInput(
                f"the data of the run have {name} of {sizes}, which --shapes leaves out; write "
                f"--shapes {name}=1:{shapes[name][0].best}:{shapes[name][0].high}x{sizes}"
            )
