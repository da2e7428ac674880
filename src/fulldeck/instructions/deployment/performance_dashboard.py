"""Watch training and server: live pages, metrics, Prometheus' rules with alerts, Grafana's dashboards.

Every run tells how it goes (`fulldeck dashboard RUN --live`), and every server (`/ui`, `/metrics`). This instruction
sets what is alerted on, for `fulldeck dashboard RUN --out DIR`, and counts the bytes that a training step and a
forward pass move, from which memory bandwidth is estimated where the hardware does not count it. The rule for
scale-in: utilisation under 30 % in three consecutive samples; two samples, or missing ones, never fire it.

Use when: somebody is to see how a training or a server fares, or to be called when it does not.
Avoid when: another system watches already; `/metrics` speaks to any that reads Prometheus' format.
Reference: Beyer et al. 2018, The Site Reliability Workbook, chapter 5, on alerts by error budgets.

Example:
    >>> import tempfile
    >>> from fulldeck.monitoring.training import Follower
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = watch_steps(folder, name="mine", steps=3)  # of your own loop, for fulldeck dashboard FOLDER --live
    ...     for loss in (0.9, 0.5, 0.3):
    ...         log.step(samples=32, loss=loss)
    ...     log.write(status="finished")
    ...     last = Follower(Path(folder)).read()[-1]
    >>> last.samples, last.status
    (96, 'finished')
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fulldeck.instruction import Evidence, Instruction, instruction
from fulldeck.monitoring.settings import CARRIED, Monitoring
from fulldeck.monitoring.traffic import CARRIED as TRAFFIC
from fulldeck.monitoring.traffic import Traffic
from fulldeck.monitoring.training import Follower
from fulldeck.monitoring.training_log import TrainingLog
from fulldeck.moved_bytes import MovedBytes
from fulldeck.service import Service
from fulldeck.training.batch import Batch, Tensors, call
from fulldeck.training.loader import as_tensors

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome
    from fulldeck.training.hooks import Handler
    from fulldeck.training.loop import TrainingLoop

COUNTED_STEP = 2
"""The step whose bytes are counted, from 0: the first ones are not like the others."""
ROWS = (4, 8)
"""Rows of the two forward passes that tell what a batch and what a row moves."""
WIDTHS = {"bf16": 0.5, "fp16": 0.5, "int8": 0.25}
"""Bytes of a value by precision, of those that it has in fp32."""
TOLD = ("samples", "p50", "p90", "p99", "loss", "validation", "moved")
"""Figures of a training that its page shows."""


@instruction(
    51,
    stage="deployment",
    touches={"service"},
    evidence=Evidence(
        workload="digits",
        metric="figures_told",
        expect=">= 1.0",
        cost={"step_time": "<= 1.05x"},
        beside=("onnx_export", "model_packaging"),
    ),
)
class PerformanceDashboard(Instruction, Monitoring):
    """Its parameters are those of `fulldeck.monitoring.settings.Monitoring`."""

    def prove(self, outcome: Outcome) -> float:
        """figures_told: the share of a training page's figures that the run has told."""
        last = [one for one in Follower(outcome.folder).read() if one.stage == "train" and one.done][-1]
        return sum(bool(getattr(last, name)) for name in TOLD) / len(TOLD)

    def attach(self, loop: TrainingLoop) -> None:
        count_step(loop)

    def configure(self, service: Service) -> Service:
        candidate = service.candidate
        settings = {name: getattr(self, name) for name in Monitoring.model_fields}
        one, two = (as_tensors(candidate.example(rows)) for rows in ROWS)
        moved = model_traffic(candidate.module, one, two)
        if (artifact := candidate.artifact) is not None:
            # Its own weights, and values as wide as it has them.
            width = WIDTHS.get(artifact.precision, 1.0)
            moved = Traffic(batch=float(artifact.bytes), row=moved.row * width)
        return service.carrying(CARRIED, settings).carrying(TRAFFIC, asdict(moved))


def watch_steps(folder: Path | str, *, name: str, steps: int = 0, epochs: int = 0) -> TrainingLog:
    """An account of your own training loop, for `fulldeck dashboard FOLDER --live`.

    Call its `step(samples, loss)` once a step, `pause()` before an evaluation, and at the end
    `write(status="finished")`. A line is written about each second.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    return TrainingLog(path, name=name, stage="train", steps=steps, epochs=epochs)


def count_step(loop: TrainingLoop) -> None:
    """Set `loop.moved_bytes` to what its third step moves: gradients and optimizer, as the operators see it.

    On the CPU only, as NVML tells of GPUs; and not where the step is compiled, which hides its operators.
    """
    if loop.device.type != "cpu":
        return
    counter, begun, compiled = MovedBytes(), 0, _compiled()

    def begin(batch: Batch) -> None:
        nonlocal begun
        if begun == COUNTED_STEP + 1 and counter.total:
            loop.moved_bytes = float(counter.total)
        begun += 1

    def around(batch: Batch, inner: Handler) -> None:
        if begun == COUNTED_STEP + 1 and _compiled() is compiled:
            with counter:
                inner(batch)
        else:
            inner(batch)

    loop.on("batch_start", begin)
    loop.around("gradients", around)
    loop.around("apply", around)


@torch.no_grad()
def model_traffic(module: nn.Module, few: Tensors, more: Tensors) -> Traffic:
    """Bytes that a forward pass of `module` moves for a batch, and for each of its rows.

    Told from two passes with different numbers of rows; of one number, all counts as the rows'.
    """
    sizes = [len(next(iter(one.values())) if isinstance(one, dict) else one) for one in (few, more)]
    totals = []
    for inputs in (few, more):
        with MovedBytes() as counter:
            call(module, inputs)
        totals.append(counter.total)
    if sizes[0] == sizes[1]:
        return Traffic(batch=0.0, row=totals[0] / sizes[0])
    row = (totals[1] - totals[0]) / (sizes[1] - sizes[0])
    return Traffic(batch=max(0.0, totals[0] - sizes[0] * row), row=row)


def _compiled() -> Any:
    """What torch.compile has compiled last in this process."""
    if "torch._dynamo.utils" not in sys.modules:
        return None
    return next(reversed(sys.modules["torch._dynamo.utils"].get_compilation_metrics()), None)
