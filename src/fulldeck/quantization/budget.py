"""What a form of a model loses of its metric, and the fewest layers in float with which it keeps to a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fulldeck.candidate import Candidate, judged_rows
from fulldeck.figures import lower_is_better
from fulldeck.training.token_mean import score
from fulldeck.workload import usual_metrics

AT_ONCE = 256


class Losses:
    """What forms of `candidate` lose of the metric that the gate compares, on the rows that it compares them on."""

    def __init__(self, candidate: Candidate) -> None:
        self.name, self.metric = next(
            iter((candidate.judged_by or usual_metrics(candidate.data.task)).items())
        )
        self.rows = candidate.judged.take(np.arange(judged_rows(candidate)))
        self.inputs = candidate.encoded(self.rows)
        self.before = self._score(candidate)

    def of(self, form: Candidate) -> float:
        """In the metric's own unit; negative for a form that is better."""
        sign = -1 if lower_is_better(self.name) else 1
        return sign * (self.before - self._score(form))

    def _score(self, form: Candidate) -> float:
        return score(self._batches(form), {self.name: self.metric})[self.name]

    def _batches(self, form: Candidate) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.rows), AT_ONCE):
            part = {name: value[start : start + AT_ONCE] for name, value in self.inputs.items()}
            targets = self.rows.targets[start : start + AT_ONCE]
            yield torch.from_numpy(form.run(part)), torch.from_numpy(np.ascontiguousarray(targets))


def fewest_spared(layers: Sequence[str], enough: Callable[[Sequence[str]], bool]) -> list[str] | None:
    """The shortest beginning of `layers` (the most sensitive first) with which it is `enough`, or None.

    It is looked for at 1, 2, 4, ... layers, and then between; all of them would leave nothing to quantise.
    """
    low, high, most = 0, 1, len(layers) - 1
    while high <= most and not enough(layers[:high]):
        low, high = high, min(2 * high, most) if high < most else most + 1
    if high > most:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(layers[:middle]) else (middle, high)
    return list(layers[:high])
