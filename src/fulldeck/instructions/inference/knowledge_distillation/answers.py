"""What the teacher says of the training rows, computed once and found again by the rows' content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fulldeck.content_hash import content_hash, mix
from fulldeck.data import Examples
from fulldeck.encoders import Encoder
from fulldeck.training.batch import Tensors
from fulldeck.training.loader import as_tensors

MOST_BYTES = 2**30
"""That answers may take; a teacher with more to say is asked in every step."""
AT_ONCE = 256

Answers = list[Tensor]
"""The teacher's outputs for some rows, then each of its features."""
Keys = npt.NDArray[np.uint64]


class KeptAnswers:
    """Answers by the content of rows; changed rows (augmented ones, say) are not among them."""

    def __init__(self, keys: Keys, answers: Answers) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._rows = torch.from_numpy(order)
        self._answers = answers

    def find(self, inputs: Tensors) -> Answers | None:
        """The answers for these rows, on their device; None if any row is unknown."""
        keys = row_keys(inputs)
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        if (self._keys[places] != keys).any():
            return None
        first = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
        rows = self._rows[torch.from_numpy(places)]
        return [one.index_select(0, rows).to(first.device) for one in self._answers]


def row_keys(inputs: Tensors) -> Keys:
    """A 64-bit hash of each row."""
    parts = [inputs] if isinstance(inputs, Tensor) else [inputs[name] for name in sorted(inputs)]
    keys = np.zeros(len(parts[0]), dtype=np.uint64)
    for part in parts:
        keys = mix(keys) ^ content_hash(part.detach().cpu().numpy())
    return keys


def all_answers(
    rows: Iterable[tuple[Tensors, Tensors]],
    ask: Callable[[Tensors], Answers],
    most_bytes: float = MOST_BYTES,
) -> KeptAnswers | None:
    """Ask about every row once: pairs of what the student reads of them and what the teacher does.

    None if the answers take more than `most_bytes`.
    """
    keys: list[Keys] = []
    found: list[Answers] = []
    size = 0
    for own, teachers in rows:
        answers = [one.cpu() for one in ask(teachers)]
        size += sum(one.numel() * one.element_size() for one in answers)
        if size > most_bytes:
            return None
        keys.append(row_keys(own))
        found.append(answers)
    return KeptAnswers(np.concatenate(keys), [torch.cat(parts) for parts in zip(*found, strict=True)])


def read_twice(rows: Examples, own: Encoder, teachers: Encoder) -> Iterator[tuple[Tensors, Tensors]]:
    """The rows as the student's encoder and as the teacher's give them, some at a time."""
    for start in range(0, len(rows), AT_ONCE):
        raw = rows.take(np.arange(start, min(start + AT_ONCE, len(rows)))).inputs
        yield as_tensors(own.encode(raw)), as_tensors(teachers.encode(raw))
