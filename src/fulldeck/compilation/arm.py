"""One engine in one precision: built, loaded, and compared with the fp32 model."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fulldeck.candidate import Tolerance
from fulldeck.compilation.forms import Form
from fulldeck.data import Array, Examples
from fulldeck.engines import ENGINES, Engine, engine_module, open_model, why_not
from fulldeck.engines.choice import Timed, milliseconds
from fulldeck.engines.pytorch import PyTorchEngine, in_precision
from fulldeck.engines.source import Settings, Source
from fulldeck.errors import BadInput, first_line
from fulldeck.networks import describe
from fulldeck.parity import parity
from fulldeck.pipeline.gate import Measured, breaches, scores
from fulldeck.training.batch import Metric

ROWS_AT_ONCE = 32
PARITY_SECONDS = 20.0
"""An engine computes validation rows for so long at most, and is compared on those."""
SCREENED_CALLS = 5
TOO_SLOW = 2.0
"""Times the fastest so far, from which an engine is not raced."""


@dataclass
class Arm:
    """What is known of one engine in one precision. `reason` says why it cannot be taken, if it cannot."""

    engine: str
    precision: str
    source: Source
    how: str = ""
    reason: str | None = None
    path: Path | None = None
    loaded: Engine | None = None
    seconds: float = 0.0
    rows: int = 0
    compared: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    screened_ms: float | None = None
    timed: Timed | None = None
    shipped: bool = True
    """Whether a package can hold it."""

    @property
    def label(self) -> str:
        return " ".join(filter(None, (self.engine, self.precision, self.how)))

    def leave_out(self, best_ms: float | None) -> None:
        """Give it a reason if it is far slower than the best."""
        slow = best_ms is not None and self.screened_ms is not None and self.screened_ms > TOO_SLOW * best_ms
        if slow and self.reason is None:
            self.reason = f"slower: another takes {best_ms:.3g} ms"

    def to_json(self) -> dict[str, Any]:
        """As in the result of `compile`."""
        timed = self.timed
        latency = timed.latency.estimate if timed else self.screened_ms
        return {
            "name": self.engine,
            "precision": self.precision,
            "how": self.how,
            "available": self.loaded is not None or self.path is not None,
            "reason": self.reason,
            "latency_ms": latency,
            "interval": [timed.latency.low, timed.latency.high] if timed else None,
            "ratio": timed.ratio.estimate if timed else None,
            "ratio_interval": [timed.ratio.low, timed.ratio.high] if timed else None,
            "rounds": timed.rounds if timed else 0,
            **{name: self.compared.get(name) for name in ("difference", "cosine", "agreement")},
            "metrics": dict(self.metrics),
            "rows": self.rows,
            "bytes": self.path.stat().st_size if self.path is not None else None,
            "build_s": round(self.seconds, 2),
        }


@dataclass(frozen=True)
class Judge:
    """Validation examples, what the fp32 model answers, and how far from it an engine may be."""

    inputs: Mapping[str, Array]
    examples: Examples
    reference: Array
    metrics: Mapping[str, Metric]
    tolerance: Tolerance
    at_once: int

    def judge(self, arm: Arm, engine: Engine) -> None:
        """Fill in how `engine` compares; with a reason if that breaks the tolerance."""
        outputs = some_outputs(engine, self.inputs, len(self.reference), self.at_once)
        arm.rows = len(outputs)
        reference = self.reference[: arm.rows]
        targets = self.examples.targets[: arm.rows]
        before = Measured(reference, scores(reference, targets, self.metrics), 0, 0.0)
        after = Measured(outputs, scores(outputs, targets, self.metrics), 0, 0.0)
        arm.compared, arm.metrics = parity(reference, outputs), after.metrics
        if broken := breaches(before, after, self.tolerance):
            arm.reason = "; ".join(broken)


def arms_of(engine: str, precisions: Collection[str], source: Source, forms: Sequence[Form]) -> list[Arm]:
    """Those of one engine: one for each of `precisions` that it has, and for each form where there are several.

    A single one with the reason for an engine that is not here.
    """
    if (reason := why_not(engine)) is not None:
        return [Arm(engine, "", source, reason=f"not available: {reason}")]
    plain = {form.precision: form.path for form in forms if form.precision != "int8"}
    source = replace(source, onnx=plain)
    arms = []
    for precision in ENGINES[engine].precisions:
        if precision not in precisions:
            continue
        if precision != "int8" or (engine == "torch_compiled" and precision in source.modules):
            arms.append(Arm(engine, precision, source))
        elif engine == "torch_compiled":
            if source.calibration is not None:
                arms.append(Arm(engine, precision, source, "static"))
            arms.append(Arm(engine, precision, replace(source, calibration=None), "dynamic"))
        else:
            arms += [
                Arm(engine, precision, replace(source, onnx={**plain, precision: form.path}), form.how)
                for form in forms
                if form.precision == precision
            ]
    return arms


def build(arm: Arm, folder: Path, settings: Settings, threads: int) -> None:
    """Convert and load the model; native code in `folder` from another time is used. A failure becomes the reason."""
    card, source = ENGINES[arm.engine], arm.source
    if arm.engine == PyTorchEngine.name and describe(source.module()) is None:
        # No package can hold it, and it is worth a comparison.
        arm.shipped = False
        try:
            module = in_precision(source.module(), arm.precision)
            arm.loaded = PyTorchEngine(module, source.output, source.signature)
        except Exception as error:  # whatever the module's own code raises
            arm.reason = first_line(error)
        return
    folder = folder / arm.label.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    try:
        # ONNX files and weights cost nothing to make again.
        kept = None if card.kind in ("onnx", "safetensors") else next(folder.glob(f"*.{card.kind}"), None)
        if kept is not None:
            with suppress(BadInput):  # it was damaged: it is made again
                arm.loaded, arm.path = _opened(kept, arm, threads), kept
        if arm.loaded is None:
            path = engine_module(arm.engine).convert(source, arm.precision, folder, settings)
            arm.loaded, arm.path = _opened(path, arm, threads), path
        takes = arm.loaded.signature
        if takes is not None and (reason := takes.narrower(source.shapes)) is not None:
            arm.loaded, arm.reason = None, reason
    except Exception as error:  # engines raise many classes, whose common base is Exception
        arm.reason = first_line(error)
    arm.seconds = time.perf_counter() - started


def _opened(path: Path, arm: Arm, threads: int) -> Engine:
    kind = ENGINES[arm.engine].kind
    return open_model(path, kind=kind, precision=arm.precision, engine=arm.engine, threads=threads)


def screen(arm: Arm, engine: Engine) -> None:
    """A first look at the time of a call."""
    arm.screened_ms = milliseconds(engine, arm.source.inputs(), SCREENED_CALLS)


def some_outputs(engine: Engine, inputs: Mapping[str, Array], rows: int, at_once: int) -> Array:
    """The first output for the first rows, as many as PARITY_SECONDS allow (at least one batch)."""
    parts: list[Array] = []
    started = time.monotonic()
    for start in range(0, rows, at_once):
        part = {name: value[start : min(start + at_once, rows)] for name, value in inputs.items()}
        parts.append(next(iter(engine.run(part).values())))
        if time.monotonic() - started > PARITY_SECONDS:
            break
    return np.concatenate(parts)
