"""Which examples a quantiser learns its ranges from."""

from __future__ import annotations

import numpy as np

from fulldeck.data import Array
from fulldeck.errors import BadInput


def calibration_rows(targets: Array, count: int, *, classes: bool = True, seed: int = 0) -> Array:
    """Row numbers of `count` examples drawn at random, ascending.

    With `classes`, `targets` are class indices and every class has its share to within one example.
    Raises BadInput if there are fewer than `count` examples, or if all that are drawn are of one class.
    """
    if count > len(targets):
        raise BadInput(
            f"calibration_samples is {count}, and there are {len(targets)} training examples; write fewer"
        )
    random = np.random.default_rng(seed)
    order = random.permutation(len(targets))
    if classes:
        # Spread each class evenly over 0..1; whatever prefix is taken then has every class in its share.
        place = np.empty(len(targets))
        for label in np.unique(targets):
            members = order[targets[order] == label]
            place[members] = (np.arange(len(members)) + random.random()) / len(members)
        order = np.argsort(place, kind="stable")
    rows = np.sort(order[:count])
    if classes and len(np.unique(targets[rows])) < 2:
        raise BadInput(
            f"all {count} calibration samples are of one class; calibrate on several: write more "
            "calibration_samples, or train on more classes"
        )
    return rows
