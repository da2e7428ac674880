"""The check after each `optimise`: parity, metric, size and latency, by the pipeline itself.

So no conversion is ever wrong in silence.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fulldeck.candidate import Candidate, Tolerance, judged_rows
from fulldeck.data import Examples
from fulldeck.figures import lower_is_better, milliseconds
from fulldeck.parity import agreement, parity
from fulldeck.training.batch import Metric
from fulldeck.training.token_mean import score

NEARLY_ALL = 0.98
"""Share of equal answers below which a conversion is remarked on."""
SLOWER = 1.2
"""Ratio of latencies from which a conversion is remarked on; below, it may be noise."""
LATENCY_RUNS, LATENCY_SECONDS = 50, 2.0
"""Latency is measured so often, or for so long: a large model needs no more."""


@dataclass(frozen=True)
class Measured:
    """A candidate's outputs on the judged rows, and its figures."""

    outputs: npt.NDArray[Any]
    metrics: Mapping[str, float]
    bytes: int
    latency_ms: float
    """Median of one row at a time."""


def measure(candidate: Candidate, metrics: Mapping[str, Metric]) -> Measured:
    """Run `candidate` in its present form on its judged examples."""
    rows = candidate.judged.take(np.arange(judged_rows(candidate)))
    inputs = candidate.encoded(rows)
    outputs = candidate.run(inputs)
    one = {name: value[:1] for name, value in inputs.items()}
    times: list[float] = []
    while len(times) < LATENCY_RUNS and sum(times) < LATENCY_SECONDS:
        start = time.perf_counter()
        candidate.run(one)
        times.append(time.perf_counter() - start)
    return Measured(
        outputs,
        scores(outputs, rows.targets, metrics),
        size_in_bytes(candidate),
        1000 * float(np.median(times)),
    )


def scores_of_many(
    candidate: Candidate, examples: Examples, metrics: Mapping[str, Metric]
) -> dict[str, float]:
    """Every metric on any number of `examples`, without keeping outputs where each metric is a TokenMean."""
    at_once = judged_rows(candidate)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(examples), at_once):
            rows = examples.take(np.arange(start, min(start + at_once, len(examples))))
            outputs = candidate.run(candidate.encoded(rows))
            yield torch.from_numpy(outputs), torch.from_numpy(rows.targets)

    return score(batches(), metrics)


def scores(
    outputs: npt.NDArray[Any], targets: npt.NDArray[Any], metrics: Mapping[str, Metric]
) -> dict[str, float]:
    """Every metric of `outputs` against `targets`."""
    pair = torch.from_numpy(np.ascontiguousarray(outputs)), torch.from_numpy(np.ascontiguousarray(targets))
    return {name: float(metric(*pair)) for name, metric in metrics.items()}


def size_in_bytes(candidate: Candidate) -> int:
    """Of the artifact's file, or of the module's parameters and buffers."""
    if candidate.artifact is not None:
        return candidate.artifact.bytes
    return sum(t.numel() * t.element_size() for t in candidate.module.state_dict().values())


def changes(before: Measured, after: Measured) -> dict[str, dict[str, float]]:
    """What one instruction changed: each figure before and after, and how the outputs compare."""
    figures = {name: {"before": before.metrics[name], "after": after.metrics[name]} for name in after.metrics}
    return {
        **figures,
        "bytes": {"before": before.bytes, "after": after.bytes},
        "latency_ms": {"before": before.latency_ms, "after": after.latency_ms},
        **{name: {"after": value} for name, value in parity(before.outputs, after.outputs).items()},
    }


def cautions(before: Measured, after: Measured) -> list[str]:
    """What keeps to the tolerance, and the user should know all the same."""
    found = []
    if (agreed := agreement(before.outputs, after.outputs)) < NEARLY_ALL:
        values = after.outputs.ndim == 1 or after.outputs.shape[-1] == 1
        same = "within 1 % of their spread of what they were" if values else "what they were"
        found.append(f"only {agreed:.1%} of the answers are {same}")
    if after.latency_ms > SLOWER * before.latency_ms:
        found.append(
            f"one answer takes {milliseconds(after.latency_ms)}, and took {milliseconds(before.latency_ms)}"
        )
    return found


def breaches(before: Measured, after: Measured, tolerance: Tolerance) -> list[str]:
    """What `after` breaks of `tolerance`, with the figures; empty if nothing."""
    found = []
    if tolerance.metric_drop is not None and after.metrics:
        name = next(iter(after.metrics))
        sign = -1 if lower_is_better(name) else 1
        drop = sign * (before.metrics[name] - after.metrics[name])
        if drop > tolerance.metric_drop:
            found.append(
                f"{name} went from {before.metrics[name]:.4f} to {after.metrics[name]:.4f} on validation data, "
                f"and may lose {tolerance.metric_drop:g}"
            )
    difference = float(np.abs(after.outputs - before.outputs).max())
    if not np.isfinite(after.outputs).all():
        found.append("its outputs are not finite")
    elif tolerance.difference is not None and difference > tolerance.difference:
        found.append(f"outputs differ by up to {difference:.3g}, and may by {tolerance.difference:g}")
    agreed = agreement(before.outputs, after.outputs)
    if tolerance.agreement is not None and agreed < tolerance.agreement:
        found.append(
            f"only {agreed:.2%} of the predictions are the same, and {tolerance.agreement:.2%} must be"
        )
    return found
