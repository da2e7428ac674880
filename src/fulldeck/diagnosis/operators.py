"""The operators of a step and their time, from torch.profiler.

What they do in it was counted before (`fulldeck.diagnosis.work`) under the same names: those of the outermost
of the profiler's events.
"""

from __future__ import annotations

import bisect
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from fulldeck.diagnosis.ceilings import Ceilings
from fulldeck.diagnosis.findings import Bound, Operator
from fulldeck.diagnosis.work import Key, Work
from fulldeck.errors import RunFailed

RANGE = "fulldeck::"
"""Marks a phase among the profiler's events."""
WORDS = {"forward": "forward", "gradients": "backward", "apply": "optimizer"}
"""The loop's phases to what an operator in them belongs to."""
LEAST_STEPS, MOST_STEPS = 4, 40
LEAST_SECONDS, MOST_SECONDS = 0.15, 5.0
"""Steps that are profiled, and for how long: short ones are easily disturbed, and long ones need no repeating."""


Span = tuple[float, float]
"""Begin and end, in microseconds."""


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
        spent = time.perf_counter() - self.since
        if steps >= MOST_STEPS or spent > MOST_SECONDS:
            return True
        return steps >= LEAST_STEPS and spent > LEAST_SECONDS

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
