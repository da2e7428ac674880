"""Serve the model over HTTP: supervised engine processes, a bounded queue, deadlines, a cap on bodies.

The server speaks the Open Inference Protocol v2, and a `/predict` that takes an item as a person has it.
This instruction sets how the package is served: with which engine, in how many processes, within which
limits. With `engine: auto` the engines that can run the artifact as it is take turns, and a faster one is taken
if it gives the same answers; `fulldeck compile` tries other precisions and native code besides.
`serve_package("runs/latest/package")` starts the server from Python, `fulldeck serve` from the shell.

Use when: the model is to answer requests.
Avoid when: it only runs inside another program; `Package.open(folder).engine()` loads it there.
Reference: Open Inference Protocol v2, github.com/open-inference/open-inference-protocol.

Example:
    >>> serve_package(Path("no_such_package"), port=0)
    Traceback (most recent call last):
    fulldeck.errors.BadInput: no_such_package is not a package: it has no manifest.json
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import field_validator

from fulldeck.candidate import Artifact, Candidate
from fulldeck.device import cpu_threads
from fulldeck.engines import ENGINES, engine_module, known, open_artifact, why_not
from fulldeck.engines.choice import fastest
from fulldeck.engines.pytorch import PyTorchEngine
from fulldeck.engines.shapes import shapes_of
from fulldeck.engines.source import Settings, Source
from fulldeck.errors import CannotAct, first_line
from fulldeck.instruction import GOALS, Evidence, Instruction, instruction
from fulldeck.networks import describe
from fulldeck.parity import agreement
from fulldeck.service import Service, Serving

COMPARED_ROWS = 64
SAME_ANSWERS = 0.99
"""Share of equal answers from which another engine gives the same ones."""
LOOKS, RACE_SECONDS = (15,), 10.0
CLEARLY = 1.1
"""Times a call of the fastest engine that the present one must take at least, to be left for it."""


@instruction(
    47,
    stage="deployment",
    goals=GOALS,
    touches={"service"},
    evidence=Evidence(
        workload="digits",
        metric="rehearsal_agreement",
        expect=">= 1.0",
        beside=("onnx_export", "model_packaging"),
    ),
)
class ModelServingFramework(Instruction, Serving):
    """Its parameters are the settings of `fulldeck.service.Serving`."""

    @field_validator("engine")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return name if name == "auto" else known(name)

    def optimise(self, candidate: Candidate) -> Candidate:
        """The form of the model for the engine that will serve it."""
        return fastest_engine(candidate) if self.engine == "auto" else in_engine(candidate, self.engine)

    def configure(self, service: Service) -> Service:
        if self.engine != "auto":
            self._check_engine(service)
        return replace(
            service, serving=Serving(**{name: getattr(self, name) for name in Serving.model_fields})
        )

    def _check_engine(self, service: Service) -> None:
        reason = why_not(self.engine)
        if reason is not None:
            raise CannotAct(f"engine {self.engine} is not available: {reason}")
        candidate = service.candidate
        there = {artifact.engine for artifact in candidate.artifacts}
        if describe(candidate.module) is not None:
            there.add("torch")
        if self.engine not in there:
            raise CannotAct(
                f"there is no form of the model for engine {self.engine}, only for "
                f"{', '.join(sorted(there)) or 'none'}; add what makes one (onnx_export for onnxruntime; for "
                "torch there are fulldeck's own networks only), or write engine: auto"
            )


def fastest_engine(candidate: Candidate) -> Candidate:
    """The candidate, served by the engine that runs its artifact fastest and gives the same answers.

    The artifact stays as it is. Its present engine is kept unless another is faster beyond doubt; one that cannot
    run it is left out, with a note.
    """
    artifact = candidate.artifact
    if artifact is None:
        return candidate
    others = [
        name
        for name, card in ENGINES.items()
        if name != artifact.engine
        and (card.kind, True) == (artifact.kind, artifact.precision in card.precisions)
        and why_not(name) is None
    ]
    if not others:
        return candidate
    threads = cpu_threads()
    forms = {name: replace(artifact, engine=name) for name in (artifact.engine, *others)}
    inputs = candidate.example(COMPARED_ROWS)
    engines, outputs = {}, {}
    for name, form in forms.items():
        try:
            engine = open_artifact(form, threads=threads)
            outputs[name] = next(iter(engine.run(inputs).values()))
            engines[name] = engine
        except Exception as error:  # engines raise many classes, whose common base is Exception
            if name == artifact.engine:
                raise
            candidate = candidate.telling(f"engine {name} was left out: {first_line(error)}")
    expected = outputs[artifact.engine]
    same = {
        name: engine
        for name, engine in engines.items()
        if np.isfinite(outputs[name]).all() and agreement(expected, outputs[name]) >= SAME_ANSWERS
    }
    found = fastest(same, candidate.example(1), looks=LOOKS, seconds=RACE_SECONDS)
    best, present = next(iter(found)), found[artifact.engine]
    if best == artifact.engine or not present.ratio.low > CLEARLY:
        return candidate
    return candidate.with_artifact(forms[best])


def in_engine(candidate: Candidate, engine: str) -> Candidate:
    """The candidate in a form for `engine`, made from its artifact or module in the precision that it has.

    Raises CannotAct if the engine is not here, or cannot run this model.
    """
    artifact, card = candidate.artifact, ENGINES[engine]
    if engine in (PyTorchEngine.name, artifact.engine if artifact else PyTorchEngine.name):
        return candidate
    if (reason := why_not(engine)) is not None:
        raise CannotAct(f"engine {engine} is not available: {reason}")
    precision = artifact.precision if artifact else candidate.precision
    if precision not in card.precisions:
        raise CannotAct(
            f"engine {engine} has no {precision}; it has {', '.join(card.precisions)}. Write engine: auto"
        )
    example = candidate.example()
    source = Source(
        example,
        shapes_of(example),
        {candidate.precision: candidate.module},
        {artifact.precision: artifact.path} if artifact and artifact.kind == "onnx" else {},
    )
    try:
        path = engine_module(engine).convert(source, precision, candidate.folder, Settings())
    except CannotAct as error:
        raise CannotAct(f"{error}. onnx_export makes ONNX files; engine: auto takes what there is") from error
    return candidate.with_artifact(Artifact(path, card.kind, precision, engine))


def serve_package(folder: Path | str, *, host: str = "127.0.0.1", port: int = 8000, **settings: Any) -> None:
    """Serve the package in `folder` in the foreground until SIGINT or SIGTERM.

    `port` 0 takes any free one. `settings` (engine, workers, queue, ...: see `fulldeck.service.Serving`)
    replace the package's own. Must be called in the main thread.

    Raises BadInput for a package that is none or was changed, for a setting out of range, for a port that
    is taken, and for a host off loopback without a token; RunFailed if the engine cannot load the model.
    """
    from fulldeck.package import Package
    from fulldeck.serving import serve

    serving = Package.open(Path(folder)).service.serving.replace(**settings)
    serve(Path(folder), host=host, port=port, serving=serving)
