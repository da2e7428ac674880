"""Which of several loaded engines is fastest: they take turns in random order, until the intervals tell.

Engines that are clearly slower than the leader drop out at the planned looks (`fulldeck.evidence.statistics`).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fulldeck.data import Array
from fulldeck.engines import Engine
from fulldeck.evidence.statistics import LOOKS, MARGIN, Interval, median_interval, spent

SHARE_SECONDS, MOST_CALLS = 0.02, 200
"""An engine's share of a round: at least so long, or so many calls."""
WARM_CALLS = 3
SETTLE_SECONDS = 0.001
"""Between two engines' shares: threads of the last one may still spin."""


@dataclass(frozen=True)
class Timed:
    """One engine's calls: `latency` in milliseconds, `ratio` to the fastest engine, of `rounds` rounds."""

    latency: Interval
    ratio: Interval
    rounds: int


def fastest(
    engines: Mapping[str, Engine],
    inputs: Mapping[str, Array],
    *,
    looks: tuple[int, ...] = LOOKS,
    seconds: float = math.inf,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Timed]:
    """Time each of `engines` (at least one) on `inputs`, the fastest first.

    It ends at the first of `looks` (rounds) at which all but one have dropped out or are within MARGIN of the
    leader, or when `seconds` are over and there have been looks[0] rounds. `engines` are by any name.
    """
    calls = {name: _calls(engine, inputs) for name, engine in engines.items()}
    times: dict[str, list[float]] = {name: [] for name in engines}
    racing = list(engines)
    order = random.Random(0)
    started = time.monotonic()
    for count in range(1, looks[-1] + 1):
        for name in order.sample(racing, len(racing)):
            time.sleep(SETTLE_SECONDS)
            times[name].append(_share(engines[name], inputs, calls[name]))
        tell(f"round {count} of at most {looks[-1]}: {len(racing)} engines")
        if count in looks:
            alpha = spent(looks.index(count), looks)
            leader = min(racing, key=lambda name: median_interval(times[name]).estimate)
            ratios = {name: _ratio(times[name], times[leader], alpha) for name in racing}
            racing = [name for name in racing if name == leader or not ratios[name].low > 1 + MARGIN]
            undecided = [
                name for name in racing if name != leader and not ratios[name].within(1 - MARGIN, 1 + MARGIN)
            ]
            if not undecided or time.monotonic() - started > seconds:
                break
    leader = min(racing, key=lambda name: median_interval(times[name]).estimate)
    found = {
        name: Timed(median_interval(ms), _ratio(ms, times[leader]), len(ms)) for name, ms in times.items()
    }
    return dict(sorted(found.items(), key=lambda one: one[1].ratio.estimate))


def milliseconds(engine: Engine, inputs: Mapping[str, Array], calls: int) -> float:
    """The median of a few calls, after one to warm up."""
    engine.run(inputs)
    return median_interval([_share(engine, inputs, 1) for _ in range(max(calls, 2))]).estimate


def _calls(engine: Engine, inputs: Mapping[str, Array]) -> int:
    """How often the engine is called in its share of a round."""
    for _ in range(WARM_CALLS):
        engine.run(inputs)
    once = _share(engine, inputs, 1) / 1000
    return min(max(math.ceil(SHARE_SECONDS / max(once, 1e-9)), 1), MOST_CALLS)


def _share(engine: Engine, inputs: Mapping[str, Array], calls: int) -> float:
    """Milliseconds a call."""
    start = time.perf_counter()
    for _ in range(calls):
        engine.run(inputs)
    return 1000 * (time.perf_counter() - start) / calls


def _ratio(one: list[float], other: list[float], alpha: float = 0.05) -> Interval:
    """The median ratio in the rounds that both took part in."""
    if one is other:
        return Interval(1.0, 1.0, 1.0)
    return median_interval([a / b for a, b in zip(one, other, strict=False)], alpha)
