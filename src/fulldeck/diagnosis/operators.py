"""The operators of a step: their time from torch.profiler, their work from the tensors that they are given.

Work is counted once, in a step of its own, where every call passes a TorchDispatchMode: floating-point
operations by the formulas of `torch.utils.flop_counter`, bytes by shapes and types. Times of the same
operators are read off the profiler's events, the outermost of which bear the same names.
"""

from __future__ import annotations

import bisect
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.flop_counter import flop_registry

from fulldeck.diagnosis.ceilings import Ceilings, best_time
from fulldeck.diagnosis.findings import Bound, Operator
from fulldeck.errors import RunFailed

RANGE = "fulldeck::"
"""Marks a phase among the profiler's events."""
WORDS = {"forward": "forward", "gradients": "backward", "apply": "optimizer"}
"""The loop's phases to what an operator in them belongs to."""
LEAST_STEPS, MOST_STEPS, LEAST_SECONDS = 4, 40, 0.15
"""Steps that are profiled: so many, or until so long, since short ones are easily disturbed."""
TRIED, TRIED_SECONDS = 16, 0.03
"""How many operators are tried out in bfloat16, and for how long in each type."""

Key = tuple[str, tuple[tuple[int, ...], ...]]
"""An operator's name and the shapes of its tensors, as the profiler writes them."""
Span = tuple[float, float]
"""Begin and end, in microseconds."""

_aten = torch.ops.aten
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # torch counts attention on GPUs only.
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _aten._scaled_dot_product_flash_attention
    ],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}
_GATHER = frozenset({"aten::embedding", "aten::index", "aten::index_select", "aten::gather"})
"""They read as much of their first operand as they write."""
_WRITE_ONLY = frozenset({"aten::zero_", "aten::fill_", "aten::copy_"})
_ALLOCATE = ("aten::empty", "aten::new_empty")


@dataclass
class Work:
    """What all calls with one key came to."""

    calls: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    dtype: str = "float32"
    example: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = None


@dataclass
class WorkCounter(TorchDispatchMode):
    """Within it, every operator's work is added up; those that only look at memory anew do none."""

    work: dict[Key, Work] = field(default_factory=lambda: defaultdict(Work))

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        name = func._schema.name
        if name.startswith("aten::") and not func.is_view and not name.startswith(_ALLOCATE):
            tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
            found = self.work[name, tuple(tuple(one.shape) for one in tensors if one.ndim)]
            found.calls += 1
            found.bytes += moved_bytes(func, args, kwargs, outputs)
            found.dtype = next(
                (_name(one) for one in tree_iter((args, outputs)) if isinstance(one, Tensor)), ""
            )
            if (formula := _FORMULAS.get(func.overloadpacket)) is not None:
                found.flops += formula(*args, **kwargs, out_val=outputs)
                if found.example is None:
                    found.example = func, tree_map(_shape_only, args), kwargs
        return outputs


def moved_bytes(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any) -> int:
    """Bytes that a call reads and writes, each tensor once: inputs, and outputs that are not inputs.

    What is changed in place is written as well as read.
    """
    name, given = func._schema.name, [*args, *kwargs.values()]
    read = [_size(one) for one in tree_iter(given) if isinstance(one, Tensor)]
    made = sum(_size(one) for one in tree_iter(outputs) if isinstance(one, Tensor))
    if name in _GATHER:
        read[0] = made
    elif name in _WRITE_ONLY:
        read[0] = 0
    changed = [
        value
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    in_place = sum(_size(one) for one in tree_iter(changed) if isinstance(one, Tensor))
    return sum(read) + (in_place or made)


class Recorder:
    """torch.profiler, started and stopped from within the loop's events, without its chatter."""

    def __init__(self) -> None:
        self.profiler: Any = None
        self.since = 0.0

    def start(self) -> None:
        self.profiler = torch.profiler.profile(record_shapes=True)
        with _hushed():
            self.profiler.start()
        self.since = time.perf_counter()

    def enough(self, steps: int) -> bool:
        """Whether so many steps since the start will do."""
        if steps < LEAST_STEPS:
            return False
        return steps >= MOST_STEPS or time.perf_counter() - self.since > LEAST_SECONDS

    def stop(self) -> Sequence[Any]:
        with _hushed():
            self.profiler.stop()
        return list(self.profiler.events() or ())


@contextmanager
def _hushed() -> Iterator[None]:
    # The profiler's C++ part writes to the descriptor itself.
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def timed_operators(
    events: Sequence[Any],
    work: Mapping[Key, Work],
    steps: int,
    wall: Mapping[str, float],
    ceilings: Ceilings,
    *,
    on_device: bool = False,
) -> tuple[Operator, ...]:
    """Operators by time, the costliest first; `events` are those of `steps` steps.

    `wall` are the seconds of a step in each span of it without the profiler. An operator has the same share
    of them as it has of the span in the profiler's steps, so that neither what the profiler costs nor what
    else the machine does counts; on an accelerator, the time of its kernels. Raises RunFailed if nothing was
    recorded.
    """
    names = {name for name, _ in work}
    spans = _outer_spans(events)
    kept = {name: _shorter_half(found) for name, found in spans.items()}
    inner = [(e.time_range.start, e.time_range.end) for e in events if e.name == f"{RANGE}forward"]
    times: dict[tuple[Key, str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.name not in names or _within(event, names):
            continue
        outer = next((name for name, found in kept.items() if _in(event, found)), None)
        if outer is not None:
            phase = "forward" if _in(event, inner) else WORDS[outer]
            shapes = tuple(tuple(shape) for shape in event.input_shapes if shape)
            microseconds = event.device_time_total if on_device else event.time_range.elapsed_us()
            times[(event.name, shapes), outer, phase].append(microseconds)
    if not times:
        raise RunFailed("the profile is empty: no operator ran in the steps that were recorded")
    found = []
    for (key, outer, phase), microseconds in times.items():
        done = work.get(key, Work(calls=1))
        each = Work(1, done.flops / done.calls, done.bytes / done.calls, done.dtype)
        in_a_step = len(spans[outer]) / steps / len(kept[outer])
        calls = len(microseconds) * in_a_step
        share = sum(microseconds) / sum(end - start for start, end in kept[outer])
        seconds = sum(microseconds) / 1e6 * in_a_step if on_device else share * wall[outer]
        found.append(
            Operator(
                key[0],
                phase,
                key[1],
                each.dtype,
                calls,
                max(seconds, 1e-9),
                each.flops * calls,
                each.bytes * calls,
                bound_of(each, ceilings),
            )
        )
    return tuple(sorted(found, key=lambda one: one.seconds, reverse=True))


def bound_of(work: Work, ceilings: Ceilings) -> Bound:
    """What takes longest of one call at the machine's ceilings: starting it, its bytes, its arithmetic."""
    at_best: dict[Bound, float] = {
        "launch": ceilings.launch_s,
        "memory": work.bytes / ceilings.bytes_per_s,
        "compute": work.flops / ceilings.flops(work.dtype),
    }
    return max(at_best, key=lambda bound: at_best[bound])


def tried_in_bfloat16(
    operators: Sequence[Operator], work: Mapping[Key, Work], device: torch.device
) -> tuple[Operator, ...]:
    """The same, the costliest float32 products and convolutions having been run in bfloat16 beside float32."""
    left = TRIED
    found = []
    for one in operators:
        done = work.get((one.name, one.shapes))
        if left and done is not None and done.example is not None and one.dtype == "float32":
            left -= 1
            one = replace(one, in_bfloat16=_narrowed(done.example, device))
        found.append(one)
    return tuple(found)


def _narrowed(example: tuple[Any, tuple[Any, ...], dict[str, Any]], device: torch.device) -> float | None:
    func, args, kwargs = example
    times = []
    for dtype in (torch.float32, torch.bfloat16):
        made = tree_map(lambda one, dtype=dtype: _made(one, dtype, device), args)
        try:
            times.append(best_time(lambda made=made: func(*made, **kwargs), device, TRIED_SECONDS))  # type: ignore[misc]
        except (RuntimeError, NotImplementedError):
            return None  # no kernel for this type
    return times[1] / times[0]


@dataclass(frozen=True)
class _Shape:
    """A tensor that is to be made again."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def _shape_only(value: Any) -> Any:
    return _Shape(tuple(value.shape), value.stride(), value.dtype) if isinstance(value, Tensor) else value


def _made(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    if not isinstance(value, _Shape):
        return value
    wanted = dtype if value.dtype == torch.float32 else value.dtype
    return torch.empty_strided(value.size, value.stride, dtype=wanted, device=device).fill_(1)


def _within(event: Any, names: set[str]) -> bool:
    parent = event.cpu_parent
    while parent is not None:
        if parent.name in names:
            return True
        parent = parent.cpu_parent
    return False


def _outer_spans(events: Iterable[Any]) -> dict[str, list[Span]]:
    """Where each phase began and ended, by its name; those within others left out."""
    spans = [e for e in events if e.name.startswith(RANGE)]
    names = {e.name for e in spans}
    found: dict[str, list[Span]] = defaultdict(list)
    for one in spans:
        if not _within(one, names):
            found[one.name.removeprefix(RANGE)].append((one.time_range.start, one.time_range.end))
    return found


def _shorter_half(spans: Sequence[Span]) -> list[Span]:
    """In time; the others are those that something else on the machine interrupted."""
    middle = statistics.median(end - start for start, end in spans)
    return [(start, end) for start, end in spans if end - start <= middle]


def _in(event: Any, spans: Sequence[Span]) -> bool:
    """Whether it began in one of them. By time: on an accelerator backward runs in a thread of its own."""
    place = bisect.bisect_right(spans, (event.time_range.start, float("inf"))) - 1
    return place >= 0 and event.time_range.start <= spans[place][1]


def _size(tensor: Tensor) -> int:
    # An expanded tensor has more elements than memory.
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
