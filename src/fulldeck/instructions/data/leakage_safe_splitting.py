"""Split data so that nothing of the test is seen in training, and no item ever changes its split.

Where an item goes is decided by a hash of its content (or of its group), never by its position. So equal
items always share a split, and when the data grow, or are read in another order, every old item stays
where it was. The price is that the sizes hold on average only: they scatter like coin tosses, in every
class alike. A test or validation split that the data bring along is kept; what is missing is taken out of
the training data, and overlap between them is found and said.

Use when: always, before anything is fitted.
Avoid when: the split is prescribed in full and has been audited before.
Reference: Kaufman et al. 2012, "Leakage in Data Mining", doi:10.1145/2382577.2382579; Géron 2022,
"Hands-On Machine Learning", ch. 2 (split by a hash of the identifier).

Example:
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(1000, 4))
    >>> parts = split_by_hash(x, validation=0.1, test=0.2)
    >>> {name: len(rows) for name, rows in parts.items()}
    {'train': 687, 'validation': 96, 'test': 217}
    >>> grown = split_by_hash(np.concatenate([x, x + 1]), validation=0.1, test=0.2)
    >>> set(parts["test"]) <= set(grown["test"])
    True
    >>> find_overlap(x[:600], x[590:])
    array([590, 591, 592, 593, 594, 595, 596, 597, 598, 599])
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from fulldeck.content_hash import content_hash, mix
from fulldeck.data import Array, Data, Examples, Inputs, joined
from fulldeck.errors import BadInput, CannotAct
from fulldeck.instruction import GOALS, Evidence, Instruction, instruction, param

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome

Moment = str | float
PLANTED_EVERY = 10
FEW = 30
"""Items of a class below which a split of 15 % gets none of them more than once in a hundred times."""
SEEDS_TRIED = 20
"""Other seeds that are tried, where one gives a split too few items of a class, to name one that does not."""


@instruction(
    15,
    stage="data",
    goals=GOALS,
    touches={"split"},
    before={
        "touches:inputs": "copies or variants of one item made before the split could land on both sides"
    },
    evidence=Evidence(workload="digits", metric="planted_copies_together", expect=">= 1.0"),
)
class LeakageSafeSplitting(Instruction):
    by: Literal["stratified", "group", "time"] = param(
        "stratified",
        doc="stratified: by content, the same shares of every class; group: no group in two splits; time: "
        "the latest items are the test.",
    )
    validation: float = param(
        0.15, gt=0, le=0.5, doc="Share of the validation split, of the data that it is taken from."
    )
    test: float = param(0.15, gt=0, le=0.5, doc="Share of the test split, where the data bring none.")
    validation_from: Moment | None = param(
        None,
        doc="By time: where validation begins; given together with test_from, no item moves as data grow.",
        hint="Write a number, or a date in quotes as it stands in the data.",
    )
    test_from: Moment | None = param(
        None,
        doc="By time: where the test begins.",
        hint="Write a number, or a date in quotes as it stands in the data.",
    )
    seed: int = param(0, ge=0, le=2**32 - 1, doc="Another number gives another split.")
    min_per_class: int = param(
        1, ge=0, doc="Least items of every class in every split; 0 only notes a class that is absent."
    )
    on_leak: Literal["report", "drop", "error"] = param(
        "report",
        doc="What to do with training items that also occur in validation or test: say how many, drop them "
        "from train, or stop.",
    )

    @classmethod
    def suggest(cls, data: Data) -> tuple[Self, str]:
        """By time or group where the data have them; no demand on classes that are too small for it."""
        chosen: dict[str, Any] = {}
        words = []
        if data.train.times is not None:
            chosen["by"] = "time"
            words.append("the data have times, so the latest items are the test")
        elif data.train.groups is not None:
            chosen["by"] = "group"
            words.append("the data have groups, and none may be in two splits")
        if data.task == "classification":
            total = np.bincount(np.concatenate([e.targets for e in data.splits().values()]))
            smallest = int(total.argmin())
            if total[smallest] < FEW:
                chosen["min_per_class"] = 0
                name = data.classes[smallest] if data.classes else smallest
                words.append(f'class "{name}" has {_items(total[smallest])}, so a split may get none of them')
        return cls(**chosen), "; ".join(words)

    def prove(self, outcome: Outcome) -> float:
        """planted_copies_together: the share of planted copies that share a split with what they copy."""
        whole = outcome.recipe.workload.load()
        copies = whole.train.take(np.arange(0, len(whole.train), PLANTED_EVERY))
        planted = replace(
            whole,
            train=replace(
                whole.train,
                inputs=joined(whole.train.inputs, copies.inputs),
                targets=np.concatenate([whole.train.targets, copies.targets]),
                groups=None,
                times=None,
            ),
        )
        parts = [set(content_hash(e.inputs).tolist()) for e in outcome.prepare(planted).splits().values()]
        hashes = content_hash(copies.inputs).tolist()
        return sum(sum(one in part for part in parts) == 1 for one in hashes) / len(hashes)

    def prepare(self, data: Data) -> Data:
        missing = [name for name in ("validation", "test") if getattr(data, name) is None]
        split, notes = self._audit(self._split(data))
        absent = self._check(split)
        if split.task == "classification" and (lacking := self._lacking(split)) is not None:
            raise BadInput(f"{lacking}; {self._remedy(data)}")
        made = f"{' and '.join(missing)} taken from train, {self.by}" if missing else "split as given"
        # What read the data says it already where they bring their split along.
        said = not missing and any(note.startswith(made) for note in data.notes)
        return split.noting(*([] if said else [f"{made}: {_sizes(split)}"]), *notes, *absent)

    def _split(self, data: Data) -> Data:
        """Take out of train what the data do not bring."""
        train = data.train
        validation = self.validation if data.validation is None else 0.0
        test = self.test if data.test is None else 0.0
        if not validation and not test:
            return data
        if self.by == "time":
            if train.times is None:
                raise CannotAct("by: time needs the time of every item, and this workload gives none")
            parts = split_by_time(
                train.times,
                validation=validation,
                test=test,
                validation_from=self.validation_from if validation else None,
                test_from=self.test_from if test else None,
            )
        elif self.by == "group":
            if train.groups is None:
                raise CannotAct("by: group needs the group of every item, and this workload gives none")
            parts = split_by_hash(train.groups, validation=validation, test=test, seed=self.seed)
        else:
            parts = split_by_hash(train.inputs, validation=validation, test=test, seed=self.seed)
        return replace(
            data,
            train=train.take(parts["train"]),
            validation=train.take(parts["validation"]) if validation else data.validation,
            test=train.take(parts["test"]) if test else data.test,
        )

    def _audit(self, data: Data) -> tuple[Data, list[str]]:
        """Find what train shares with the other splits, and act on it."""
        notes = []
        for name, held in data.splits().items():
            if name == "train":
                continue
            for what, leaking in self._leaks(data.train, held).items():
                if not len(leaking):
                    continue
                found = f"{len(leaking)} of {len(data.train)} training items {what} {name}"
                if self.on_leak == "error":
                    raise BadInput(f"{found}; remove them, or write on_leak: drop")
                if self.on_leak == "drop":
                    kept = data.train.take(np.delete(np.arange(len(data.train)), leaking))
                    data = replace(data, train=kept)
                    notes.append(f"{found}: dropped from train")
                else:
                    notes.append(f"{found}: kept (on_leak: drop takes them out)")
        return data, notes or ["no overlap between train and the other splits"]

    def _leaks(self, train: Examples, held: Examples) -> dict[str, Array]:
        leaks = {"also occur in": find_overlap(train.inputs, held.inputs)}
        if self.by == "group" and train.groups is not None and held.groups is not None:
            leaks["share a group with"] = find_overlap(train.groups, held.groups)
        if self.by == "time" and train.times is not None and held.times is not None:
            leaks["are not older than"] = np.flatnonzero(train.times >= held.times.min())
        return leaks

    def _check(self, data: Data) -> list[str]:
        """Notes on classes of which a split has no item; raises BadInput for an empty split."""
        for name, examples in data.splits().items():
            if not len(examples):
                raise BadInput(f"{name} got no item: {_sizes(data)}; add data or raise the share of {name}")
        if data.task != "classification":
            return []
        return [
            f"{name} has {count} of the {_items(total)} of class {words}"
            for words, total, counts in _per_class(data)
            for name, count in counts.items()
            if total and not count
        ]

    def _lacking(self, data: Data) -> str | None:
        """Which split has less than `min_per_class` items of a class, and how many more classes are so."""
        found = [
            f"{name} has {counts[name]} of the {_items(total)} of class {words}"
            for words, total, counts in _per_class(data)
            if total
            and (name := min(counts, key=lambda split: counts[split]))
            and counts[name] < self.min_per_class
        ]
        if not found:
            return None
        more = "" if len(found) == 1 else f" (and {len(found) - 1} more classes are like it)"
        return f"{found[0]}{more}, and min_per_class is {self.min_per_class}"

    def _remedy(self, data: Data) -> str:
        """What to write instead: another seed, if one of the next ones serves every class."""
        others = "add items, leave the class out, or write min_per_class: 0"
        if self.by == "time":
            return others
        for seed in range(self.seed + 1, self.seed + 1 + SEEDS_TRIED):
            other = self.replace(seed=seed)
            if other._lacking(other._audit(other._split(data))[0]) is None:
                return f"write seed: {seed}, which gives every split enough; or {others}"
        return others


def split_by_hash(
    inputs: Inputs, *, validation: float = 0.15, test: float = 0.15, seed: int = 0
) -> dict[str, Array]:
    """Row numbers of `train`, `validation` and `test`, ascending; equal rows are in the same split.

    Pass the items themselves, or the group of each to keep groups together. The split of a row depends on
    its content and `seed` alone, so it stays when rows are added, removed or reordered, and a larger
    share only adds rows to a split. Every class gets its share in expectation: of n items, `test * n` with
    a standard deviation of `sqrt(n * test * (1 - test))`.

    Raises BadInput if the shares leave nothing for train.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise BadInput(f"validation {validation} and test {test} must be shares that leave some for train")
    mixed = mix(content_hash(inputs) ^ mix(np.array([seed], dtype=np.uint64)))
    position = (mixed >> np.uint64(11)) * 2.0**-53
    is_test = position < test
    is_validation = position >= 1 - validation
    return {
        "train": np.flatnonzero(~is_test & ~is_validation),
        "validation": np.flatnonzero(is_validation),
        "test": np.flatnonzero(is_test),
    }


def split_by_time(
    times: Array,
    *,
    validation: float = 0.15,
    test: float = 0.15,
    validation_from: Moment | None = None,
    test_from: Moment | None = None,
) -> dict[str, Array]:
    """Row numbers of `train`, `validation` and `test`: train is the oldest, test the latest.

    Items of equal time stay together. A boundary that is not given is the quantile of the share, and so
    moves as data grow.

    Raises BadInput if a boundary cannot be compared with `times`, or if validation begins after the test.
    """
    times = np.asarray(times)
    order = np.sort(times)
    late = _moment(test_from, times, "test_from") if test_from is not None else _quantile(order, 1 - test)
    if validation_from is not None:
        middle = _moment(validation_from, times, "validation_from")
    else:
        before = order if late is None else order[order < late]
        middle = _quantile(before, 1 - validation * len(order) / max(len(before), 1))
    is_test = np.zeros(len(times), dtype=bool) if late is None else times >= late
    is_validation = np.zeros(len(times), dtype=bool) if middle is None else (times >= middle) & ~is_test
    if late is not None and middle is not None and middle >= late:
        raise BadInput(f"validation would begin at {middle}, which is not before the test ({late})")
    return {
        "train": np.flatnonzero(~is_test & ~is_validation),
        "validation": np.flatnonzero(is_validation),
        "test": np.flatnonzero(is_test),
    }


def find_overlap(train: Inputs, held: Inputs) -> Array:
    """Row numbers of `train` whose content also occurs in `held`, ascending."""
    return np.flatnonzero(np.isin(content_hash(train), content_hash(held)))


def _quantile(order: Array, share: float) -> Any:
    """The time from which on about `1 - share` of the sorted times lie; None for none."""
    place = round(len(order) * share)
    return order[place] if place < len(order) else None


def _moment(value: Moment, times: Array, name: str) -> Any:
    try:
        return np.array([value]).astype(times.dtype)[0]
    except (TypeError, ValueError):
        raise BadInput(f"{name} is {value!r}, which is no time like {times[0]}") from None


def _per_class(data: Data) -> list[tuple[str, int, dict[str, int]]]:
    """Of each class its name in quotes, its number of items, and how many each split has."""
    splits = data.splits()
    number = max(int(examples.targets.max()) for examples in splits.values() if len(examples)) + 1
    counts = {name: np.bincount(e.targets, minlength=number) for name, e in splits.items()}
    names = data.classes or tuple(map(str, range(number)))
    return [
        (
            f'"{names[label]}"',
            int(sum(c[label] for c in counts.values())),
            {n: int(c[label]) for n, c in counts.items()},
        )
        for label in range(number)
    ]


def _items(count: int) -> str:
    return f"{count} item" if count == 1 else f"{count} items"


def _sizes(data: Data) -> str:
    return ", ".join(f"{name} {len(examples)}" for name, examples in data.splits().items())
