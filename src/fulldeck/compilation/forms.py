"""The forms of a run's model that engines compile: what the run has, and what instructions of the deck make."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from fulldeck.candidate import Artifact, Candidate
from fulldeck.catalogue import Entry, catalogue
from fulldeck.data import Array
from fulldeck.engines.shapes import Shapes
from fulldeck.errors import BadInput, first_line
from fulldeck.instruction import Instruction
from fulldeck.onnx_file import model_files
from fulldeck.quantization.calibration import calibration_rows
from fulldeck.run_folder import RESULT

COMMAND = "compile"
"""Marks in result.json what was added after the run."""
CALIBRATION_ROWS = 256
EXPORTS = frozenset({"export"})
LOWERS = frozenset({"dtype", "artifact"})
"""What an instruction touches that makes an ONNX file, and one that makes it anew in integers."""
HALVES = frozenset({"dtype", "modules"})
"""What an instruction touches that lowers the module itself, so that the file exported from it has the type in it."""
WAYS = ("mode", "backend")
"""Parameters of the latter whose values, as far as they declare them for a search, are tried each."""


@dataclass(frozen=True)
class Form:
    """An ONNX file of the model; `how` tells several of one precision apart."""

    precision: str
    how: str
    path: Path


def files_of(run: Path) -> dict[str, Path]:
    """The run's own ONNX files by precision; of several, the newest."""
    listed = json.loads((run / RESULT).read_bytes())["artifacts"]
    made = [one for one in listed if one["kind"] == "onnx" and one.get("by") != COMMAND]
    files = {one["precision"]: run / one["path"] for one in made}
    return {precision: path for precision, path in files.items() if path.is_file()}


def onnx_forms(
    candidate: Candidate,
    own: Mapping[str, Path],
    precisions: Collection[str],
    folder: Path,
    tell: Callable[[str], None],
    refused: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Form], list[str]]:
    """ONNX files of the model, and why some could not be made.

    `own` are files that there are already, by precision. The fp32 one, and those of fp16 and int8 where they are
    wanted in `precisions`, are made in `folder`, unless they are there from another time; of int8 not what is
    `refused` (see `refused_ways`).
    """
    forms = [Form(precision, "", path) for precision, path in own.items()]
    notes: list[str] = []
    if candidate.precision != "fp32":
        notes.append(f"the model was trained in {candidate.precision}, and has no other precision")
        if candidate.precision not in own:
            forms += _exported(candidate, folder, notes, tell)
        return forms, notes
    if "fp32" not in own:
        forms += _exported(candidate, folder, notes, tell)
    if "fp16" in precisions and "fp16" not in own:
        forms += _in_float16(candidate, folder, notes, tell)
    exported = next((form.path for form in forms if form.precision == "fp32"), None)
    if exported is None or "int8" not in precisions:
        return forms, notes
    candidate = candidate.with_artifact(Artifact(exported, "onnx", "fp32", "onnxruntime"))
    for entry in _makers(LOWERS):
        for how, instruction in _ways(entry, candidate):
            if how not in refused:
                forms += _made(instruction, candidate, "int8", how, folder, notes, tell)
    notes += [f"no int8 {how}: {reason}" for how, reason in refused.items()]
    return forms, notes


def refused_ways(chosen: Iterable[Instruction], candidate: Candidate) -> dict[str, str]:
    """Ways of int8 that instructions of the run would not have beside them in a plan, and why.

    What they promise (that no training row shows in the model) must hold for what is made after the run too.
    """
    ways = [way for entry in _makers(LOWERS) for way in _ways(entry, candidate)]
    found = [(how, one.clash(made), one.card.name) for how, made in ways for one in chosen]
    return {how: f"{name} excludes it: {reason}" for how, reason, name in found if reason is not None}


def calibration_of(candidate: Candidate) -> dict[str, Array]:
    """Training rows that int8 ranges are learnt from, every class in its share."""
    train = candidate.data.train
    rows = calibration_rows(
        train.targets,
        min(CALIBRATION_ROWS, len(train)),
        classes=candidate.data.task == "classification",
    )
    return candidate.encoded(train.take(rows))


def check_fits(candidate: Candidate, shapes: Shapes) -> None:
    """Raises BadInput where the data of the run have other sizes than `shapes` take."""
    for name, value in candidate.example(1).items():
        if any(size not in one for size, one in zip(value.shape[1:], shapes[name][1:], strict=True)):
            sizes = "x".join(map(str, value.shape[1:]))
            batch = shapes[name][0]
            raise BadInput(
                f"the data of the run have {name} of {sizes}, which --shapes leaves out; write "
                f"--shapes {name}={batch.low}:{batch.best}:{batch.high}x{sizes}"
            )


def _makers(touching: frozenset[str]) -> Iterator[Entry]:
    for entry in catalogue():
        if entry.stage == "inference" and touching <= set(entry.touches):
            yield entry


def _in_float16(
    candidate: Candidate, folder: Path, notes: list[str], tell: Callable[[str], None]
) -> list[Form]:
    """Exported from the module in float16, in which layers that cannot bear it stay in float32."""
    for entry in _makers(HALVES):
        if "float16" not in entry.parameters.get("dtype", {}).get("search", ()):
            continue
        try:
            tell(entry.name)
            lowered = entry.load()().replace(dtype="float16").optimise(replace(candidate, folder=folder))
        except Exception as error:  # the libraries raise many classes; the other forms need not mind
            notes.append(f"no fp16 ONNX file: {first_line(error)}")
            continue
        if forms := _exported(lowered, folder, notes, tell):
            return forms
    return []


def _exported(
    candidate: Candidate, folder: Path, notes: list[str], tell: Callable[[str], None]
) -> list[Form]:
    """The candidate's module as an ONNX file, in the precision that it has."""
    forms = []
    for entry in _makers(EXPORTS):
        instruction, _ = entry.load().suggest(candidate.data)
        forms += _made(instruction, candidate, candidate.precision, "", folder, notes, tell)
    return forms


def _ways(entry: Entry, candidate: Candidate) -> Iterator[tuple[str, Instruction]]:
    """What the instruction suggests for the data, with all values of WAYS together that it takes."""
    suggested, _ = entry.load().suggest(candidate.data)
    declared = {name: entry.parameters.get(name, {}).get("search", ()) for name in WAYS}
    declared = {name: values for name, values in declared.items() if values}
    if not declared:
        yield "suggested", suggested
        return
    for values in itertools.product(*declared.values()):
        try:
            yield "-".join(map(str, values)), suggested.replace(**dict(zip(declared, values, strict=True)))
        except BadInput:  # these values exclude each other
            continue


def _made(
    instruction: Instruction,
    candidate: Candidate,
    precision: str,
    how: str,
    folder: Path,
    notes: list[str],
    tell: Callable[[str], None],
) -> list[Form]:
    """What `instruction` makes of the candidate, in a folder of its own; empty, with a note, if it cannot."""
    place = folder / "-".join(filter(None, ("onnx", precision, how)))
    path = place / "model.onnx"
    if path.is_file():
        return [Form(precision, how, path)]
    tell(" ".join(filter(None, (instruction.card.name, how))))
    place.mkdir(parents=True, exist_ok=True)
    try:
        artifact = instruction.optimise(replace(candidate, folder=place)).artifact
    except Exception as error:  # the libraries raise many classes; the other forms need not mind
        what = " ".join(filter(None, (f"no {precision} ONNX file", how)))
        notes.append(f"{what}: {first_line(error)}")
        return []
    if artifact is None or (artifact.kind, artifact.precision) != ("onnx", precision):
        return []
    if len(model_files(artifact.path)) > 1:  # a file names the one that has its weights
        return [Form(precision, how, artifact.path)]
    artifact.path.replace(path)
    return [Form(precision, how, path)]
