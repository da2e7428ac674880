"""How the outputs of one form of a model compare with those of another."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def parity(reference: npt.NDArray[Any], outputs: npt.NDArray[Any]) -> dict[str, float]:
    """How `outputs` compare with those of the reference on the same rows.

    difference: the largest absolute one; cosine: of all outputs as one vector (1: the same up to a factor);
    agreement: the share of equal predictions.
    """
    one, other = reference.astype(np.float64).ravel(), outputs.astype(np.float64).ravel()
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return {
        "difference": float(np.abs(one - other).max()),
        "cosine": float(one @ other) / norms if norms else float(np.array_equal(one, other)),
        "agreement": agreement(reference, outputs),
    }


def agreement(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Share of equal predictions; for single-valued outputs, of values within one percent of their spread.

    A prediction is the largest value along the last axis: one a row, or one a token.
    """
    if one.ndim > 1 and one.shape[-1] > 1:
        return float((one.argmax(axis=-1) == other.argmax(axis=-1)).mean())
    return float((np.abs(one - other) <= 0.01 * (one.std() + 1e-12)).mean())
