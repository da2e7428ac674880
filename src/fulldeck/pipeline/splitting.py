"""The plain split that is made where neither the data nor an instruction has made one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fulldeck.data import Data

SHARE = 0.1


def with_default_split(data: Data, seed: int) -> Data:
    """`data` with validation and test parts of SHARE each, drawn with `seed` from train, and a note of it.

    Data that has both is returned as it is; data that has one of them gets the other.
    """
    missing = [name for name in ("validation", "test") if getattr(data, name) is None]
    if not missing:
        return data
    order = np.random.default_rng(seed).permutation(len(data.train))
    size = max(1, round(SHARE * len(data.train)))
    parts = {name: data.train.take(order[i * size : (i + 1) * size]) for i, name in enumerate(missing)}
    rest = data.train.take(np.sort(order[len(missing) * size :]))
    return replace(
        data,
        train=rest,
        validation=parts.get("validation", data.validation),
        test=parts.get("test", data.test),
    ).noting(f"{' and '.join(missing)}: {size} examples each, drawn at random from train (seed {seed})")
