"""Whether a model is marked with a key: how probable so many matches are of a model that was made without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fulldeck.ownership.key import Key
from fulldeck.ownership.triggers import COUNT, Form, trigger_classes, trigger_inputs
from fulldeck.ownership.weight_mark import BITS, candidates, matching

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Finding:
    """`matches` of `count`; `p_value` is the chance of at least so many without the key, for all `tries` together."""

    matches: int
    count: int
    p_value: float
    tries: int = 1
    place: str = ""


def of_answers(key: Key, form: Form, ask: Callable[[Array], Array]) -> Finding:
    """By what a model answers: `ask` gives the class of each of some inputs."""
    answers = ask(trigger_inputs(key, form))
    matches = int(np.count_nonzero(answers == trigger_classes(key, form.classes)))
    return Finding(matches, COUNT, chance(matches, COUNT, 1 / form.classes))


def of_weights(key: Key, weights: Mapping[str, Array]) -> Finding | None:
    """By its weights: the layer that fits best, with all that were tried counted; None if none is large enough."""
    found = [(matching(key, value), name) for name, value in candidates(weights)]
    if not found:
        return None
    matches, place = max(found)
    p_value = min(1.0, len(found) * chance(matches, BITS, 0.5))
    return Finding(matches, BITS, p_value, len(found), place)


def chance(matches: int, count: int, each: float) -> float:
    """That of `count` independent tosses at least `matches` come out, `each` being the chance of one."""
    from scipy.stats import binom

    return float(binom.sf(matches - 1, count, each))


def together(*findings: Finding | None) -> float:
    """One p-value for all that was looked at (Bonferroni)."""
    there = [one.p_value for one in findings if one is not None]
    return min(1.0, len(there) * min(there))
