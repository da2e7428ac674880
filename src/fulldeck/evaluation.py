"""What the served model gets right and wrong on data that it has not seen: `evaluation.json` of a run.

The figures behind a report's pictures: confusions, figures of each class, calibration, residuals, and the
examples that the model is most wrong about.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fulldeck.content_hash import content_hash, mix
from fulldeck.data import Data, Examples

Array = npt.NDArray[Any]

CLASSES_IN_A_MATRIX = 100
CONFUSIONS = 50
"""Most frequent confusions that are listed where a matrix would be too large."""
WORST = 24
POINTS = 1000
BINS = 10
TEXT_LENGTH = 400
THUMBNAIL = 96
"""Pixels of the longer side of a shown image."""


def evaluate(data: Data, split: str, examples: Examples, outputs: Array) -> dict[str, Any]:
    """Look closely at `outputs` for `examples` of `split`.

    Outputs are N x C logits (classification) or N (or N x 1) values (regression); what has another shape
    is only counted. Returns plain JSON values, the worst examples first.
    """
    found: dict[str, Any] = {
        "split": split,
        "examples": len(examples),
        "fingerprint": fingerprint(examples),
        "task": data.task,
    }
    if data.task == "classification" and outputs.ndim == 2 and examples.targets.ndim == 1:
        shares = _softmax(outputs)
        found["classification"] = classification(shares, examples.targets, data.classes)
        truth = shares[np.arange(len(shares)), examples.targets]
        losses = -np.log(np.maximum(truth, 1e-12))
        wrong = np.flatnonzero(outputs.argmax(axis=1) != examples.targets)
        found["worst"] = [
            {
                "row": int(row),
                "truth": _named(data.classes, int(examples.targets[row])),
                "predicted": _named(data.classes, int(outputs[row].argmax())),
                "confidence": float(shares[row].max()),
                "loss": float(losses[row]),
                **shown(examples, row),
            }
            for row in wrong[np.argsort(-losses[wrong], kind="stable")][:WORST]
        ]
    elif data.task == "regression" and outputs.size == examples.targets.size:
        predicted, targets = outputs.reshape(-1).astype(float), examples.targets.reshape(-1).astype(float)
        found["regression"] = regression(predicted, targets)
        errors = np.abs(predicted - targets)
        found["worst"] = [
            {
                "row": int(row),
                "truth": float(targets[row]),
                "predicted": float(predicted[row]),
                "loss": float(errors[row]),
                **shown(examples, row),
            }
            for row in np.argsort(-errors, kind="stable")[:WORST]
        ]
    return found


def fingerprint(examples: Examples) -> str:
    """The same for the same items with the same targets, in any order; 16 hexadecimal digits."""
    both = content_hash(examples.inputs) ^ mix(content_hash(examples.targets))
    return f"{int(mix(both).sum(dtype=np.uint64)):016x}"


def classification(shares: Array, targets: Array, classes: Sequence[str]) -> dict[str, Any]:
    """Confusions, figures of each class, and calibration, of N x C class probabilities.

    `calibration_error` is the expected calibration error over ten bins of equal width (Guo et al. 2017,
    arXiv:1706.04599).
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted = shares.argmax(axis=1)
    labels = np.arange(shares.shape[1])
    names = [_named(classes, int(label)) for label in labels]
    matrix = confusion_matrix(targets, predicted, labels=labels)
    figures = precision_recall_fscore_support(targets, predicted, labels=labels, zero_division=0)
    bins, error = calibration(shares.max(axis=1), predicted == targets)
    result: dict[str, Any] = {
        "classes": names,
        "per_class": [
            {"name": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for name, p, r, f, s in zip(names, *figures, strict=True)
        ],
        "calibration": bins,
        "calibration_error": error,
    }
    if len(labels) <= CLASSES_IN_A_MATRIX:
        return result | {"confusion": matrix.tolist()}
    np.fill_diagonal(matrix, 0)
    most = np.argsort(-matrix, axis=None, kind="stable")[:CONFUSIONS]
    places = [divmod(int(place), len(labels)) for place in most]
    return result | {
        "confused": [
            {"truth": names[one], "predicted": names[other], "count": int(matrix[one, other])}
            for one, other in places
            if matrix[one, other]
        ]
    }


def calibration(confidence: Array, right: Array) -> tuple[list[dict[str, float]], float]:
    """Mean confidence, accuracy and count of each bin that is not empty, and the expected error."""
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins: list[dict[str, float]] = []
    error = 0.0
    for number in range(BINS):
        chosen = place == number
        if count := int(chosen.sum()):
            sure, accuracy = float(confidence[chosen].mean()), float(right[chosen].mean())
            bins.append({"confidence": sure, "accuracy": accuracy, "count": count})
            error += count / len(confidence) * abs(sure - accuracy)
    return bins, error


def regression(predicted: Array, targets: Array) -> dict[str, Any]:
    """Root mean square and mean absolute error, and up to POINTS pairs of truth and prediction."""
    errors = predicted - targets
    rows = np.linspace(0, len(targets) - 1, min(POINTS, len(targets))).astype(int)
    return {
        "rmse": float(np.sqrt(np.mean(errors**2))),
        "mae": float(np.abs(errors).mean()),
        "points": [[float(targets[row]), float(predicted[row])] for row in rows],
    }


def shown(examples: Examples, row: int) -> dict[str, Any]:
    """One raw item in a form that a page can show: image, text or cells; nothing for bare tensors."""
    inputs = examples.inputs
    if isinstance(inputs, Mapping):
        return {"cells": {name: _cell(column[row]) for name, column in inputs.items()}}
    if isinstance(inputs, list):
        text = inputs[row]
        return {"text": text if len(text) <= TEXT_LENGTH else f"{text[:TEXT_LENGTH]} ..."}
    if inputs.dtype == np.uint8 and inputs.ndim == 4 and inputs.shape[1] in (1, 3):
        return {"image": _thumbnail(inputs[row])}
    return {}


def _thumbnail(levels: Array) -> str:
    from PIL import Image

    image = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _softmax(logits: Array) -> Array:
    raised = np.exp(logits.astype(float) - logits.max(axis=1, keepdims=True))
    shares: Array = raised / raised.sum(axis=1, keepdims=True)
    return shares


def _named(classes: Sequence[str], index: int) -> str:
    return classes[index] if index < len(classes) else str(index)


def _cell(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and not np.isfinite(plain) else plain
