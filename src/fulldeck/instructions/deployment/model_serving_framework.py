"""Serve the model over HTTP: supervised engine processes, a bounded queue, deadlines, a cap on bodies.

The server speaks the Open Inference Protocol v2, and a `/predict` that takes an item as a person has it.
This instruction sets how the package is served: with which engine, in how many processes, within which
limits. `serve_package("runs/latest/package")` starts it from Python, `fulldeck serve` from the shell.

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

from pydantic import field_validator

from fulldeck.engines import available, known
from fulldeck.errors import CannotAct
from fulldeck.instruction import GOALS, Evidence, Instruction, instruction
from fulldeck.networks import describe
from fulldeck.service import Service, Serving


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

    def configure(self, service: Service) -> Service:
        if self.engine != "auto":
            self._check_engine(service)
        return replace(
            service, serving=Serving(**{name: getattr(self, name) for name in Serving.model_fields})
        )

    def _check_engine(self, service: Service) -> None:
        reason = available()[self.engine]
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
