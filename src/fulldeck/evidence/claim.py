"""A claim such as `<= 0.6x`, `>= +0.02` or `>= 0.99`, and whether a measurement bears it out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fulldeck.errors import BadInput
from fulldeck.evidence.statistics import Direction, Interval

_FORM = re.compile(r"(<=|>=)\s*([+-]?)(\d+(?:\.\d+)?)(x?)")


@dataclass(frozen=True)
class Claim:
    """`scale` says what the bound is compared with: treatment over baseline, minus baseline, or alone."""

    text: str
    better: Direction
    bound: float
    scale: Literal["ratio", "difference", "alone"]

    @classmethod
    def parse(cls, text: str) -> Claim:
        """`<= 0.6x` is a ratio, `>= +0.02` and `>= -0.005` are differences, `>= 0.99` stands alone.

        Raises BadInput for anything else.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None or (match[2] and match[4]):
            raise BadInput(f'a claim reads like "<= 0.6x", ">= +0.02" or ">= 0.99", got "{text}"')
        bound = float(match[2] + match[3])
        scale: Literal["ratio", "difference", "alone"] = (
            "ratio" if match[4] else "difference" if match[2] else "alone"
        )
        return cls(text, "lower" if match[1] == "<=" else "higher", bound, scale)

    @property
    def neutral(self) -> float | None:
        """The effect of doing nothing; None where the figure stands alone."""
        return {"ratio": 1.0, "difference": 0.0, "alone": None}[self.scale]

    def holds(self, effect: Interval) -> bool | None:
        """True if the whole interval keeps to the bound, False if none of it does, None between."""
        if self.better == "lower":
            return True if effect.high <= self.bound else False if effect.low > self.bound else None
        return True if effect.low >= self.bound else False if effect.high < self.bound else None
