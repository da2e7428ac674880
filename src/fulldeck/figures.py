"""Figures as a person reads them, and which of them should be small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOWER_IS_BETTER = (
    "loss",
    "error",
    "rmse",
    "mse",
    "mae",
    "perplexity",
    "bits_per",
    "bytes",
    "_ms",
    "seconds",
    "difference",
)


def lower_is_better(name: str) -> bool:
    """Whether the figure of this name should be small: a loss, an error, a size, a time."""
    return any(word in name for word in LOWER_IS_BETTER)


def size(number: float) -> str:
    """Bytes as a person reads them: `301 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"


def milliseconds(value: float) -> str:
    """A short time with three digits: `1.72 ms`, `1,630 ms`."""
    return f"{value:.3g} ms" if abs(value) < 1000 else f"{value:,.0f} ms"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: `2 m 05 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} m" if hours else f"{minutes} m {rest:02d} s"


def figure(name: str, value: Any) -> str:
    """One figure of a result in the unit that its name says."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {figure(f'{key}_{name}', item)}" for key, item in value.items())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if name == "bytes" or name.endswith("_bytes"):
        return size(value)
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return f"{text} ms" if name.endswith("_ms") else text
