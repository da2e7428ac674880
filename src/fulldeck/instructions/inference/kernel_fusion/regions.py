"""Chains of a model as parts of their own: each timed as it is and fused, and fused only where that is faster."""

from __future__ import annotations

import contextlib
import copy
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.utils.fuser_utils import fuse_by_partitions

from fulldeck.chains import chains_in
from fulldeck.logs import quiet
from fulldeck.training.batch import Tensors, call

HOT = 0.05
"""Share of a forward pass below which a chain is not worth a compilation."""
MOST = 6
"""Chains that are compiled at most, the costliest first."""
ROUNDS, ROUND_SECONDS = 9, 0.005
WORTH_IT = 0.97
"""Time of a fused chain, as a share of its time as it is, above which it is left as it is."""
PREFIX = "chain_"

Fuse = Callable[[fx.GraphModule], Callable[..., Any] | None]
"""Another way to compute a chain; None where it does not know one."""


@dataclass(frozen=True)
class Chain:
    """One chain: its operations by name, its share of a forward pass, and for each way of fusing it its time over
    that as it is (the largest of all batches)."""

    operations: tuple[str, ...]
    share: float
    ratios: dict[str, float]
    kept: str | None = None


class Region(nn.Module):
    """A chain that is computed in another way; an exporter sees it as it is."""

    def __init__(self, plain: fx.GraphModule, fused: Callable[..., Any]) -> None:
        super().__init__()
        self.plain = plain
        self._fused = [fused]  # in a list, or it would become a part of this module

    def forward(self, *inputs: Any) -> Any:
        """What the chain computes."""
        return self.plain(*inputs) if torch.compiler.is_exporting() else self._fused[0](*inputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Region:
        return Region(copy.deepcopy(self.plain, memo), self._fused[0])


def fuse_chains(
    model: nn.Module, batches: Sequence[Tensors], ways: dict[str, Fuse]
) -> tuple[fx.GraphModule | None, list[Chain]]:
    """A copy of `model` in which hot chains are fused in the fastest of `ways`, where one is faster at each of
    `batches`; and all hot chains. None where none is, or where the model cannot be traced."""
    try:
        graph = fx.symbolic_trace(copy.deepcopy(model).eval())
    except Exception:  # a user's forward may do anything with the tracer's stand-ins
        return None, []
    chains = chains_in(graph.graph, dict(graph.named_modules()))
    names = [tuple(str(n.target) if n.op == "call_module" else n.name for n in chain) for chain in chains]
    parted = fuse_by_partitions(graph, [dict.fromkeys(chain) for chain in chains], prefix=PREFIX)
    parted.recompile()
    heard = [_inputs_of(parted, batch) for batch in batches]
    whole = [_seconds(partial(call, parted, batch)) for batch in batches]
    found: list[Chain] = []
    for number, operations in enumerate(names):
        name = f"{PREFIX}{number}"
        part = getattr(parted, name)
        shares = [
            _seconds(partial(part, *inputs[name])) / one for inputs, one in zip(heard, whole, strict=True)
        ]
        found.append(Chain(operations, max(shares), {}))
    hot = sorted(range(len(found)), key=lambda number: -found[number].share)[:MOST]
    kept = False
    for number in hot:
        if found[number].share < HOT:
            continue
        name = f"{PREFIX}{number}"
        found[number], fused = _fused(
            found[number], getattr(parted, name), [one[name] for one in heard], ways
        )
        if fused is not None:
            setattr(parted, name, Region(getattr(parted, name), fused))
            kept = True
    return (parted if kept else None), [found[number] for number in sorted(hot)]


def compiled(part: fx.GraphModule) -> Callable[..., Any]:
    """`part` through torch.compile; it is compiled when it is called."""
    return torch.compile(part)


def in_turns(ways: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds of a call of each of `ways`, the median of rounds in which all take turns."""
    with torch.no_grad():
        calls = {name: _calls(way) for name, way in ways.items()}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                times[name].append(_once(way, calls[name]))
    return {name: statistics.median(some) for name, some in times.items()}


def _fused(
    chain: Chain, part: fx.GraphModule, inputs: Sequence[tuple[Any, ...]], ways: dict[str, Fuse]
) -> tuple[Chain, Callable[..., Any] | None]:
    ratios: dict[str, float] = {}
    made: dict[str, Callable[..., Any]] = {}
    for way, fuse in ways.items():
        # A compiler may fail in any way: then it is left out.
        with quiet(logging.ERROR), contextlib.suppress(Exception):
            other = fuse(part)
            if other is None or not all(_agree(part, other, one) for one in inputs):
                continue
            worst = 0.0
            for one in inputs:
                seconds = in_turns({"plain": partial(part, *one), "fused": partial(other, *one)})
                worst = max(worst, seconds["fused"] / seconds["plain"])
            ratios[way], made[way] = worst, other
    best = min(ratios, key=lambda way: ratios[way], default=None)
    if best is None or ratios[best] > WORTH_IT:
        return Chain(chain.operations, chain.share, ratios), None
    return Chain(chain.operations, chain.share, ratios, best), made[best]


@torch.no_grad()
def _agree(part: fx.GraphModule, other: Callable[..., Any], inputs: tuple[Any, ...]) -> bool:
    one, two = part(*inputs), other(*inputs)
    pairs = [(one, two)] if isinstance(one, Tensor) else list(zip(one, two, strict=True))
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)


def _inputs_of(model: fx.GraphModule, batch: Tensors) -> dict[str, tuple[Any, ...]]:
    """What each chain reads in a forward pass."""
    heard: dict[str, tuple[Any, ...]] = {}
    with _listening(model, heard), torch.no_grad():
        call(model, batch)
    return heard


@contextlib.contextmanager
def _listening(model: fx.GraphModule, heard: dict[str, tuple[Any, ...]]) -> Iterator[None]:
    hooks = [
        part.register_forward_pre_hook(lambda module, inputs, name=name: heard.__setitem__(name, inputs))
        for name, part in model.named_children()
        if name.startswith(PREFIX)
    ]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def _seconds(way: Callable[[], Any]) -> float:
    return in_turns({"": way}, rounds=5)[""]


def _calls(way: Callable[[], Any]) -> int:
    _once(way, 2)
    return max(1, min(200, round(ROUND_SECONDS / max(_once(way, 1), 1e-9))))


def _once(way: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls
