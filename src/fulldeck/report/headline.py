"""What a manager understands in ten seconds: one sentence and four figures, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fulldeck.report.run_files import RunFiles
from fulldeck.report.words import NO_CHANGE, is_share, ratio, said, shown, titled


@dataclass(frozen=True)
class Bar:
    """One figure of a tile, drawn."""

    label: str
    text: str
    percent: float
    """Its length, of the tile's longest."""


@dataclass(frozen=True)
class Tile:
    """One figure, large, and what it was before."""

    title: str
    text: str
    note: str
    ratio: str = ""
    worse: bool = False
    """Whether the ratio is none to be proud of."""
    bars: Sequence[Bar] = ()


def headline(run: RunFiles) -> tuple[str, list[Tile]]:
    """The sentence (empty for a run that has no figures) and the tiles."""
    found = conversions(run)
    tiles = [_metric(run, found)]
    if found:
        first, last = found[0]["changes"], found[-1]["changes"]
        for name, title in (("bytes", "Size"), ("latency_ms", "Latency")):
            before, after = first[name]["before"], last[name]["after"]
            note = "of one example, in process" if name == "latency_ms" else "of the served model"
            tiles.append(_pair(title, name, note, {"trained": before, "served": after}))
    tiles.append(_memory(run))
    return _sentence(run, found), [tile for tile in tiles if tile is not None]


def conversions(run: RunFiles) -> list[Mapping[str, Any]]:
    """The instructions that turned the trained model into something else, in order."""
    items = run.result.get("instructions", [])
    return [item for item in items if {"bytes", "latency_ms", "agreement"} <= item.get("changes", {}).keys()]


def _metric(run: RunFiles, found: Sequence[Mapping[str, Any]]) -> Tile | None:
    split, metrics = run.last_split
    if not metrics:
        return _validation(run)
    name, value = next(iter(metrics.items()))
    count = run.evaluation.get("examples") if run.evaluation.get("split") == split else None
    note = f"on {count:,} {split} examples" if count else f"on the {split} split"
    bars: list[Bar] = []
    changes = [item["changes"][name] for item in found if name in item["changes"]]
    if changes:
        sides = {"trained": changes[0].get("before"), "served": changes[-1].get("after")}
        bars = _bars(name, {f"{side}, validation": value for side, value in sides.items()})
    return Tile(titled(name), shown(name, value, 1), note, bars=bars)


def _validation(run: RunFiles) -> Tile | None:
    """Of a run that was not evaluated: the last epoch's figure, if training has begun."""
    if not run.metrics:
        return None
    last = run.metrics[-1]
    names = [name for name in last if name.startswith("validation_")]
    names = [name for name in names if name != "validation_loss"] or names or ["loss"]
    return Tile(titled(names[0]), shown(names[0], last[names[0]], 1), f"epoch {last['epoch'] + 1}")


def _memory(run: RunFiles) -> Tile | None:
    sides = {
        "training, peak": (run.result.get("memory") or {}).get("training_peak_bytes"),
        "server": (run.result.get("rehearsal") or {}).get("memory_bytes"),
    }
    known = {label: value for label, value in sides.items() if value}
    if not known:
        return None
    note = "of the server's process" if "server" in known else "of training, at its peak"
    return _pair("Memory", "memory_bytes", note, known)


def _pair(title: str, name: str, note: str, sides: Mapping[str, float]) -> Tile:
    values = list(sides.values())
    compared = ratio(name, values[0], values[-1]) if len(values) == 2 else ""
    worse = compared not in ("", NO_CHANGE) and values[-1] > values[0]
    return Tile(title, shown(name, values[-1]), note, compared, worse, _bars(name, sides))


def _bars(name: str, sides: Mapping[str, float | None]) -> list[Bar]:
    known = {label: value for label, value in sides.items() if value is not None}
    longest = max((abs(value) for value in known.values()), default=0) or 1
    return [Bar(label, shown(name, value, 1), 100 * abs(value) / longest) for label, value in known.items()]


def _sentence(run: RunFiles, found: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    split, metrics = run.last_split
    if metrics:
        name, value = next(iter(metrics.items()))
        text = shown(name, value, 1)
        beginning = f"{text} {said(name)}" if is_share(name) else f"{titled(name)} {text}"
        unseen = "" if split == "train" else " that training did not see"
        parts.append(f"{beginning} on {split} data{unseen}.")
    if found:
        first, last = found[0]["changes"], found[-1]["changes"]
        words = [
            compared
            for name in ("bytes", "latency_ms")
            if (compared := ratio(name, first[name]["before"], last[name]["after"])) not in ("", NO_CHANGE)
        ]
        if words:
            parts.append(f"The served model is {' and '.join(words)} than the trained one.")
    rehearsal = run.result.get("rehearsal")
    if rehearsal:
        parts.append(
            f"A real server was asked {rehearsal['requests']} times: "
            f"{shown('agreement', rehearsal['agreement'], 0)} of its answers were the model's own, "
            f"99 of 100 within {shown('latency_ms', rehearsal['latency_ms']['p99'])}."
        )
    return " ".join(parts)
