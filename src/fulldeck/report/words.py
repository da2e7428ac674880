"""How a page names and writes a figure: shares in percent, ratios in words."""

from __future__ import annotations

import math
from typing import Any

from fulldeck.figures import figure, lower_is_better, milliseconds

SHARES = ("accuracy", "agreement", "precision", "recall", "f1", "confidence", "calibration_error", "share")
NO_BREAK = "\N{NO-BREAK SPACE}"
NO_CHANGE = "no change"
SAME, SAME_TIME = 1.03, 1.2
"""Ratios below these are told as no change; a time that is measured once differs by that much by itself."""


def is_share(name: str) -> bool:
    """Whether the figure of this name lies between 0 and 1 and is read in percent."""
    return any(word in name for word in SHARES)


def said(name: str) -> str:
    """A figure's name in words: `validation_accuracy` is "validation accuracy"."""
    if name in _PHRASES:
        return _PHRASES[name]
    for ending in ("_ms", "_bytes"):
        name = name.removesuffix(ending)
    return " ".join(_WORDS.get(word, word) for word in name.split("_"))


def titled(name: str) -> str:
    """`said`, with a capital."""
    words = said(name)
    return words[:1].upper() + words[1:]


_PHRASES = {
    "agreement": "same predictions",
    "difference": "largest difference",
    "low_precision_flops": "arithmetic in 16 bits",
}
_WORDS = {
    "artifact": "artifact size",
    "bytes": "size",
    "lr": "learning rate",
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "MAE",
    "f1": "F1",
}


def shown(name: str, value: Any, decimals: int = 2) -> str:
    """A figure in its unit, which no line break parts from it; nothing is an en dash.

    `decimals` are those of a percentage; times have three digits, others as many as the command line shows.
    """
    if value is None:
        return "–"
    number = isinstance(value, (int, float))
    if number and is_share(name):
        text = f"{100 * value:.{decimals}f} %"
    elif number and name.endswith("_ms"):
        text = milliseconds(value)
    else:
        text = figure(name, value)
    return text.replace(" ", NO_BREAK) if number else text


def si(value: float, unit: str) -> str:
    """Three digits with the prefix of their size: `105 GFLOP/s`."""
    rounded = float(f"{value:.3g}")
    power = math.floor(math.log10(abs(rounded)) / 3) if rounded and math.isfinite(rounded) else 0
    power = min(max(power, -3), 5)
    return f"{rounded / 1000.0**power:.3g}{NO_BREAK}{_PREFIXES[power + 3]}{unit}".strip()


_PREFIXES = ("n", "µ", "m", "", "k", "M", "G", "T", "P")


def ratio(name: str, before: Any, after: Any) -> str:
    """How `after` compares with `before`: "3.7× smaller", "no change"; empty where it says nothing."""
    numbers = all(isinstance(value, (int, float)) and value > 0 for value in (before, after))
    if not numbers or is_share(name) or not lower_is_better(name):
        return ""
    times = max(before, after) / min(before, after)
    if times < (SAME_TIME if name.endswith("_ms") else SAME):
        return NO_CHANGE
    less, more = next(words for ending, words in _COMPARATIVES.items() if ending in name)
    return f"{times:.3g}× {less if after < before else more}"


_COMPARATIVES = {
    "memory": ("less", "more"),
    "bytes": ("smaller", "larger"),
    "_ms": ("faster", "slower"),
    "seconds": ("faster", "slower"),
    "": ("lower", "higher"),
}
"""What the name holds to the words for less and more of it; the first that fits."""
