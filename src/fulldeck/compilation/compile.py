"""Compile a run's model for this machine: each engine in each precision, compared, timed, and the fastest kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fulldeck.candidate import Candidate, Tolerance, judged_rows
from fulldeck.compilation.arm import (
    ROWS_AT_ONCE,
    Arm,
    Judge,
    arms_of,
    build,
    screen,
    some_outputs,
)
from fulldeck.compilation.forms import (
    COMMAND,
    calibration_of,
    check_fits,
    files_of,
    onnx_forms,
    refused_ways,
)
from fulldeck.device import cpu_threads
from fulldeck.diagnosis.ceilings import cache_folder
from fulldeck.diagnosis.inference import trained
from fulldeck.engines import ENGINES, Engine, open_model, why_not
from fulldeck.engines.choice import fastest
from fulldeck.engines.processor import release, traits
from fulldeck.engines.pytorch import PyTorchEngine
from fulldeck.engines.shapes import Shapes, shapes_of
from fulldeck.engines.source import Settings, Source
from fulldeck.engines.tensorrt import NAME as TENSORRT
from fulldeck.engines.tensorrt import STRONGLY_TYPED_SINCE, trtexec
from fulldeck.errors import BadInput, RunFailed, first_line
from fulldeck.files import sha256, write_json
from fulldeck.machine import describe_machine
from fulldeck.networks import describe
from fulldeck.onnx_file import copy_model, model_files
from fulldeck.package import MANIFEST, PackagedModel, add_form
from fulldeck.package.signing import SIGNATURE
from fulldeck.run_folder import RESULT, RunFolder

COMPILED = "compile.json"
EXAMPLE_ROWS = 4
RACE_SECONDS = 120.0
LIBRARIES = ("onnxruntime", "openvino", "apache-tvm", "tensorrt", "torchao", "nncf")
SAME = 1e-4
"""Largest difference, relative to the largest output (if over 1), between an engine and the file that it is kept in."""


def compile_run(
    run: Path,
    *,
    engine: str = "auto",
    precisions: Sequence[str] = (),
    shapes: Sequence[str] = (),
    settings: Settings | None = None,
    tolerance: Tolerance | None = None,
    fresh: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure the model that `run` trained, and put the fastest form that keeps to `tolerance` into its package.

    `engine` is one of ENGINES or auto (all that are here), `precisions` of fp32, bf16, fp16, int8 (none: all).
    What was compiled for the same weights on the same machine is used again, and so is the choice; `fresh`
    measures anew. Returns `engines` (a row each, the fastest first), `chosen`, `reference`, `machine`.

    Raises BadInput for a run that is not finished, an engine that is not here, sizes that do not fit; RunFailed
    if no engine keeps to the tolerance.
    """
    started = time.monotonic()
    settings, tolerance = settings or Settings(), tolerance or Tolerance(agreement=0.98)
    if engine not in ("auto", TENSORRT) and (reason := why_not(engine)) is not None:
        raise BadInput(f"engine {engine} is not available: {reason}")
    tell("loading the trained model")
    recipe, candidate = trained(run)
    if engine == TENSORRT and (reason := why_not(engine)) is not None:
        raise BadInput(_elsewhere(run, reason, shapes_of(candidate.example(1), shapes), precisions, settings))
    threads = cpu_threads()
    torch.set_num_threads(threads)
    with RunFolder(run).locked():
        example = candidate.example(EXAMPLE_ROWS)
        sizes = shapes_of(example, shapes)
        check_fits(candidate, sizes)
        own = files_of(run)
        wanted = _wanted(candidate, own, precisions)
        folder = cache_folder() / "compiled" / _key(run, own, sizes, settings, threads)
        refused = refused_ways([entry.instruction for entry in recipe.entries], candidate)
        table = folder / f"choice-{_hash([engine, wanted, tolerance.__dict__, refused])}.json"
        if not fresh and (kept := _kept(table)) is not None:
            result = kept | {"cached": True}
        else:
            if fresh:
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            forms, notes = onnx_forms(candidate, own, wanted, folder, tell, refused)
            rounded = candidate.precision != "fp32"
            calibrated = "int8" in wanted and not rounded and not refused
            calibration = calibration_of(candidate) if calibrated else None
            source = Source(example, sizes, {candidate.precision: candidate.module}, calibration=calibration)
            arms = [
                arm
                for name in (ENGINES if engine == "auto" else (engine,))
                for arm in arms_of(name, wanted, source, forms)
            ]
            if not arms:
                has = ", ".join(ENGINES[engine].precisions)
                raise BadInput(f"engine {engine} has no {' or '.join(wanted)}; it has {has}")
            metrics = recipe.workload.metrics(candidate.data)
            judge = _judge(candidate, source, metrics, tolerance, tell)
            chosen = choose(arms, judge, folder, settings, threads, tell)
            result = _result(candidate, arms, chosen, source, judge, notes) | {"cached": False}
            with suppress(OSError, BadInput):  # a read-only home costs the time, and nothing else
                write_json(table, result | {"file": str(chosen.path)})
            result["file"] = str(chosen.path)
        installed = _install(run, candidate, result)
        result = {"run": str(run)} | result | installed | {"seconds": round(time.monotonic() - started, 1)}
        result.pop("file")
        write_json(run / COMPILED, result)
    return result


def _wanted(candidate: Candidate, own: Mapping[str, Path], precisions: Sequence[str]) -> tuple[str, ...]:
    """The precisions to measure. Raises BadInput where the model has none of those that are asked for."""
    if candidate.precision == "fp32":
        return tuple(precisions) or ("fp32", "bf16", "fp16", "int8", *own.keys() & {"int4"})
    if precisions and candidate.precision not in precisions:
        raise BadInput(
            f"the model was trained in {candidate.precision}, and has no {' or '.join(precisions)}; leave "
            f"{' '.join(f'--{one}' for one in precisions)} out"
        )
    return (candidate.precision,)


def _elsewhere(run: Path, reason: str, sizes: Shapes, precisions: Sequence[str], settings: Settings) -> str:
    """What to type on a machine with a GPU, beside why it cannot be done here."""
    file = files_of(run).get("fp32", Path("model.onnx"))
    command = trtexec(file, (*precisions, "fp32")[0], sizes, settings, STRONGLY_TYPED_SINCE - 1)
    return f"engine {TENSORRT} is not available: {reason}; there, TensorRT 10 alone would do: {command}"


def choose(
    arms: list[Arm],
    judge: Judge,
    folder: Path,
    settings: Settings,
    threads: int,
    tell: Callable[[str], None],
) -> Arm:
    """Build, compare and time `arms` in place; return the fastest that a package can hold."""
    best: float | None = None
    for arm in arms:
        if arm.reason is not None:
            continue
        tell(f"{arm.label}: building")
        build(arm, folder, settings, threads)
        if arm.loaded is None:
            continue
        tell(f"{arm.label}: comparing")
        try:
            screen(arm, arm.loaded)
            arm.leave_out(best)
            judge.judge(arm, arm.loaded)
        except Exception as error:  # engines raise many classes, whose common base is Exception
            arm.reason = first_line(error)
        if arm.reason is not None:
            arm.loaded = None
        elif arm.screened_ms is not None:
            best = min(best or arm.screened_ms, arm.screened_ms)
    for arm in arms:
        arm.leave_out(best)  # once more, now that the best of all is known
    racing = {arm.label: arm for arm in arms if arm.loaded is not None and arm.reason is None}
    engines = {label: arm.loaded for label, arm in racing.items() if arm.loaded is not None}
    if not engines:
        reasons = "; ".join(f"{arm.label}: {arm.reason}" for arm in arms)
        raise RunFailed(f"no engine can be taken. {reasons}")
    found = fastest(engines, arms[0].source.inputs(), seconds=RACE_SECONDS, tell=tell)
    for label, timed in found.items():
        racing[label].timed = timed
    for label in found:
        if racing[label].shipped:
            return racing[label]
    raise RunFailed(
        "only the module itself keeps to the tolerance, and a package holds no code; allow more with --agreement "
        "or --metric-drop"
    )


def _judge(
    candidate: Candidate,
    source: Source,
    metrics: Any,
    tolerance: Tolerance,
    tell: Callable[[str], None],
) -> Judge:
    """What the trained module answers on validation examples."""
    tell("computing the reference")
    batch = next(iter(source.shapes.values()))[0]
    at_once = min(ROWS_AT_ONCE, batch.high or ROWS_AT_ONCE)
    count = judged_rows(candidate)
    if batch.low > 1:
        at_once = max(at_once, batch.low)
        count -= count % at_once
        if not count:
            raise BadInput(
                f"--shapes asks for {batch.low} rows or more, and there are {judged_rows(candidate)}"
            )
    examples = candidate.judged.take(np.arange(count))
    inputs = candidate.encoded(examples)
    reference = some_outputs(PyTorchEngine(candidate.module), inputs, count, at_once)
    return Judge(inputs, examples, reference, metrics, tolerance, at_once)


def _result(
    candidate: Candidate, arms: list[Arm], chosen: Arm, source: Source, judge: Judge, notes: list[str]
) -> dict[str, Any]:
    rows = sorted(
        arms, key=lambda arm: (arm.timed.ratio.estimate if arm.timed else np.inf, arm.reason is None)
    )
    return {
        "engines": [arm.to_json() for arm in rows],
        "chosen": chosen.to_json(),
        "shapes": {name: [str(axis) for axis in axes] for name, axes in source.shapes.items()},
        "takes_one_row": all(1 in axes[0] for axes in source.shapes.values()),
        "measured_at": {name: list(value.shape) for name, value in source.inputs().items()},
        "tolerance": judge.tolerance.__dict__,
        "reference": f"the trained module in {candidate.precision}, PyTorch eager",
        "notes": notes,
        "machine": describe_machine(),
    }


def _install(run: Path, candidate: Candidate, result: dict[str, Any]) -> dict[str, Any]:
    """Put the chosen file into the run's artifacts and package; returns where."""
    chosen, file = result["chosen"], Path(result["file"])
    card = ENGINES[chosen["name"]]
    name = file.name
    another = file.parent.resolve() != RunFolder(run).artifacts.resolve()
    if another and card.kind == "onnx" and chosen["precision"] != "fp32" and len(model_files(file)) == 1:
        # The run may have another file, and another one of that precision.
        name = ".".join(filter(None, ("model", chosen["precision"], chosen["how"], "onnx")))
    own = RunFolder(run).artifacts / name
    _check(file, chosen, candidate, result["takes_one_row"])
    if file.resolve() != own.resolve():
        copy_model(file, own)
    _list(run, own, card.kind, chosen)
    package, place = run / "package", {"artifact": str(own.relative_to(run)), "package": None}
    if not (package / MANIFEST).is_file():
        return place | {"why_no_package": "the run has none: add model_packaging to the recipe"}
    if not result["takes_one_row"]:
        return place | {"why_no_package": "a server gets single rows too, and --shapes leaves those out"}
    form = PackagedModel(path=own.name, kind=card.kind, precision=chosen["precision"], engine=chosen["name"])
    network = describe(candidate.module) if card.kind == "safetensors" else None
    notes = list(result["notes"])
    if (package / SIGNATURE).is_file():
        notes.append(
            "the package was signed and no longer is, since its content changed; "
            "fulldeck.package.signing.sign signs it again"
        )
    add_form(package, own, form, network)
    return place | {"package": str(package.relative_to(run)), "notes": notes}


def _check(file: Path, chosen: dict[str, Any], candidate: Candidate, takes_one_row: bool) -> None:
    """That the file, which may be of another time, answers as the module does, as far as the chosen engine did."""
    engine = _opened(file, chosen)
    if not takes_one_row:
        return
    example = candidate.example(1)
    got = next(iter(engine.run(example).values())).astype(np.float64)
    expected = next(iter(PyTorchEngine(candidate.module).run(example).values()))
    difference = float(np.abs(got - expected).max())
    if not difference <= 2 * chosen["difference"] + SAME * max(1.0, float(np.abs(expected).max())):
        raise RunFailed(
            f"{file} ({chosen['name']}) differs from the model by {difference:.2g}; measure again with --fresh"
        )


def _opened(file: Path, chosen: Mapping[str, Any]) -> Engine:
    name, precision = chosen["name"], chosen["precision"]
    return open_model(file, kind=ENGINES[name].kind, precision=precision, engine=name, threads=cpu_threads())


def _list(run: Path, file: Path, kind: str, chosen: dict[str, Any]) -> None:
    """Name the artifact in result.json."""
    result = json.loads((run / RESULT).read_bytes())
    entry = {
        "path": str(file.relative_to(run)),
        "kind": kind,
        "bytes": file.stat().st_size,
        "precision": chosen["precision"],
        "engine": chosen["name"],
        "by": COMMAND,
    }
    others = [one for one in result["artifacts"] if one.get("by") != COMMAND]
    write_json(run / RESULT, result | {"artifacts": [*others, entry]})


def _kept(table: Path) -> dict[str, Any] | None:
    """A choice that was made before, if its file is still there and whole."""
    try:
        kept: dict[str, Any] = json.loads(table.read_bytes())
        _opened(Path(kept["file"]), kept["chosen"])
    except (OSError, ValueError, KeyError):  # BadInput is a ValueError
        return None
    return kept


def _key(run: Path, own: Mapping[str, Path], shapes: Shapes, settings: Settings, threads: int) -> str:
    """What compiled files are valid for: the model, the sizes, the machine, the versions."""
    files = [
        run / "artifacts" / "model.safetensors",
        *(one for path in own.values() for one in model_files(path)),
    ]
    model = [sha256(file) for file in files]
    sizes = {name: [(one.low, one.best, one.high) for one in axes] for name, axes in shapes.items()}
    versions = [release(library) for library in LIBRARIES]
    return _hash([model, sizes, settings.__dict__, threads, traits("torch"), versions])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
