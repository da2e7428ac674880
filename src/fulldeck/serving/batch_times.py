"""What batches of a model take, learnt from a warm-up and from every batch since; and which sizes pay."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

GAIN = 1.1
"""Times the rows a second of a smaller batch that a larger one must bring: its first rows wait for the last."""
WEIGHT = 0.05
"""Weight of the newest batch in the mean of its size."""
FORGET = 0.999
"""What is left, after each batch, of how much the slowest one took longer than usual."""
COSTLY_FIRST = 2.0
"""Times its usual time that the first batch of a size must take for the engine to be said to prepare for sizes."""
LOOK_AGAIN = 256
"""Batches after which it is found out again which sizes pay."""
HOP_SECONDS = 1e-4
"""Time on the way to an engine process and back, until it is known."""


class BatchTimes:
    """Seconds by number of rows."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._mean: list[float] = []
        self._high: list[float] = []
        self._hop = HOP_SECONDS
        self._best: dict[int, int] = {}
        self._age = 0
        self.prepares = False
        """Whether the engine takes long for a size that it sees for the first time."""

    @property
    def known(self) -> bool:
        """Whether anything is known."""
        return bool(self._rows)

    def learn(self, sizes: Iterable[tuple[int, float, float, float]]) -> None:
        """What a warm-up found: rows, seconds of the first batch, of the median and of the slowest later one."""
        self._rows, self._mean, self._high, slow = [], [], [], []
        for rows, first, usual, high in sorted(sizes):
            self._rows.append(rows)
            self._mean.append(usual)
            self._high.append(max(usual, high))
            slow.append(first > COSTLY_FIRST * max(usual, HOP_SECONDS))
        self._best = {}
        # The very first call of an engine is slow for other reasons.
        self.prepares = len(slow) > 2 and sum(slow[1:]) * 2 > len(slow) - 1

    def ran(self, rows: int, seconds: float, hop: float) -> None:
        """A batch was run in `seconds`, and its way took `hop` more."""
        self._age += 1
        if self._age % LOOK_AGAIN == 0:
            self._best = {}
        self._hop += WEIGHT * (min(hop, 10 * self._hop) - self._hop)
        place = bisect_left(self._rows, rows)
        if place == len(self._rows) or self._rows[place] != rows:
            return
        usual = self._mean[place]
        self._mean[place] += WEIGHT * (min(seconds, 10 * usual) - usual)
        self._high[place] = max(seconds, usual + FORGET * (self._high[place] - usual))

    def size(self, rows: int) -> int:
        """The number of rows to fill a batch of `rows` up to: one that the engine is prepared for, if it prepares."""
        place = bisect_left(self._rows, rows)
        return self._rows[place] if self.prepares and place < len(self._rows) else rows

    def seconds(self, rows: int) -> float:
        """What a batch of `rows` takes on the whole; 0 while nothing is known."""
        return self._between(self._mean, self.size(rows)) + self._hop if self._rows else 0.0

    def slowest(self, rows: int) -> float:
        """What a slow batch of `rows` takes; 0 while nothing is known."""
        return self._between(self._high, rows) if self._rows else 0.0

    def best(self, most: int) -> int:
        """The number of rows up to `most` with which a batch pays."""
        if not self._rows or most <= 1:
            return max(1, most)
        found = self._best.get(most)
        if found is None:
            found = self._best[most] = self._find_best(most)
        return found

    def drain(self, rows: int, largest: int) -> float:
        """Seconds in which one engine process has run `rows`, in batches of up to `largest` that pay."""
        if not rows:
            return 0.0
        size = self.best(min(rows, largest))
        return -(-rows // size) * self.seconds(size)

    def _find_best(self, most: int) -> int:
        best, speed = 1, 1 / self.seconds(1)
        for rows in (*(one for one in self._rows if 1 < one < most), most):
            if (new := rows / self.seconds(rows)) > GAIN * speed:
                best, speed = rows, new
        return best

    def _between(self, values: list[float], rows: int) -> float:
        """On the line through the two measured sizes around `rows`; beyond the last, in proportion to it."""
        place = bisect_left(self._rows, rows)
        if place == len(self._rows):
            return values[-1] * rows / self._rows[-1]
        if place == 0 or self._rows[place] == rows:
            return values[place]
        low, high = self._rows[place - 1], self._rows[place]
        share = (rows - low) / (high - low)
        return values[place - 1] + share * (values[place] - values[place - 1])
