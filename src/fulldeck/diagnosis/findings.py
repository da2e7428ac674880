"""What a diagnosis has found out about a run or a model: plain figures, which instructions predict from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fulldeck.diagnosis.ceilings import Ceilings

Bound = Literal["launch", "memory", "compute"]
BOUNDS: tuple[Bound, ...] = ("launch", "memory", "compute")
"""What keeps an operator from being faster: the cost of starting it, bytes moved, arithmetic."""
FULL = 0.9
"""Share of the memory in use from which on it is what limits: the next larger batch would not fit."""
RARE = 0.005
"""Operators with less of the time are left out of the JSON."""


@dataclass(frozen=True)
class Operator:
    """All calls of one operator with the same shapes in one phase: figures of one step.

    `flops` are those of matrix products, convolutions and attention (0 for others), `bytes` what was read
    and written. `in_bfloat16` is its time in bfloat16 as a share of its time as it is, tried out on the
    costliest of those with `flops`; None where it was not.
    """

    name: str
    phase: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    calls: float
    seconds: float
    flops: float
    bytes: float
    bound: Bound
    in_bfloat16: float | None = None

    def to_json(self, step_seconds: float, ceilings: Ceilings) -> dict[str, Any]:
        """Every figure, also as rates and as shares of the ceilings."""
        flops_per_s, bytes_per_s = self.flops / self.seconds, self.bytes / self.seconds
        return {
            "name": self.name,
            "phase": self.phase,
            "shapes": [list(shape) for shape in self.shapes],
            "dtype": self.dtype,
            "calls": self.calls,
            "milliseconds": 1000 * self.seconds,
            "share": self.seconds / step_seconds,
            "flops": self.flops,
            "bytes": self.bytes,
            "flops_per_s": flops_per_s,
            "bytes_per_s": bytes_per_s,
            "flops_of_ceiling": flops_per_s / ceilings.flops(self.dtype),
            "bytes_of_ceiling": bytes_per_s / ceilings.bytes_per_s,
            "intensity": self.flops / self.bytes if self.bytes else None,
            "bound": self.bound,
            "in_bfloat16": self.in_bfloat16,
        }


@dataclass(frozen=True)
class Memory:
    """Bytes by kind in one step. `peak` is the most in use at once (the whole process, or an accelerator's
    tensors), `limit` what there is."""

    weights: int
    gradients: int
    optimizer_state: int
    activations: int
    batch: int
    peak: int
    limit: int

    @property
    def full(self) -> bool:
        """Whether it is the memory that limits."""
        return self.peak > FULL * self.limit


@dataclass(frozen=True)
class Pipeline:
    """The input pipeline alone: batches a second without training; padding in them.

    `padding` is the share of padding tokens, `padding_in_batch` what would remain of it if each batch were
    cut to its longest row; both None where inputs are no token ids.
    """

    batches_per_s: float
    padding: float | None = None
    padding_in_batch: float | None = None


@dataclass(frozen=True)
class Layer:
    """One linear or convolution layer of a trained model, and what its weights would tolerate.

    `error` maps a type to the change of the outputs on validation rows when this layer alone has its weights
    rounded to it: the root mean square of the change over that of the outputs.
    """

    name: str
    kind: str
    bytes: int
    error: Mapping[str, float]

    def tolerates(self, most: float) -> str:
        """The narrowest type whose error is at most `most`; `unknown` if none was tried."""
        if not self.error:
            return "unknown"
        return next((name for name in ("int8", "bfloat16") if self.error[name] <= most), "float32")


@dataclass(frozen=True)
class Findings:
    """All of it. `kind` is training (a step) or inference (a forward pass at batch 1).

    `step_seconds` is the time of a step without any profiler; `phases` are its shares by the loop's own
    clocks, `bounds` its shares by what limits them (phases, with forward and backward split into launch,
    memory and compute); both sum to 1. `layers` and `chains` (fusible, as names of modules) are of inference
    only. `model_bytes` are those of all weights. `rank_seconds` is what each process of a training computes in a
    step, without waiting for the others.
    """

    kind: Literal["training", "inference"]
    device: str
    step_seconds: float
    phases: Mapping[str, float]
    bounds: Mapping[str, float]
    operators: tuple[Operator, ...]
    ceilings: Ceilings
    memory: Memory | None = None
    pipeline: Pipeline | None = None
    recompiles: int = 0
    model_bytes: int = 0
    layers: tuple[Layer, ...] = ()
    chains: tuple[tuple[str, ...], ...] = ()
    steps: Mapping[str, int] = field(default_factory=dict)
    rank_seconds: tuple[float, ...] = ()

    def share(self, operators: tuple[Operator, ...]) -> float:
        """Of the step's time, that of `operators`."""
        return sum(one.seconds for one in operators) / self.step_seconds
