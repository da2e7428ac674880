"""What is written about a model's mistakes."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from fulldeck.data import Data, Examples
from fulldeck.evaluation import CLASSES_IN_A_MATRIX, POINTS, calibration, evaluate, fingerprint

CLASSES = ("cat", "dog", "owl")
TARGETS = np.array([0, 1, 2, 1])
LOGITS = np.array([[9.0, 0, 0], [0, 9.0, 0], [9.0, 0, 0], [0, 1.0, 2.0]])
"""The third is wrong and sure, the fourth wrong and unsure."""


def data(examples: Examples, kind: str = "text", task: str = "classification") -> Data:
    return Data("mine", kind, task, examples, classes=CLASSES if task == "classification" else ())  # type: ignore[arg-type]


def test_confusions_and_figures_of_each_class() -> None:
    examples = Examples(["a", "b", "c", "d"], TARGETS)
    found = evaluate(data(examples), "test", examples, LOGITS)
    assert found["split"] == "test"
    assert found["examples"] == 4
    assert found["classification"]["confusion"] == [[1, 0, 0], [0, 1, 1], [1, 0, 0]]
    assert found["classification"]["per_class"][1] == {
        "name": "dog",
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "support": 2,
    }


def test_the_surest_mistake_comes_first() -> None:
    examples = Examples(["a", "b", "c" * 1000, "d"], TARGETS)
    worst = evaluate(data(examples), "test", examples, LOGITS)["worst"]
    assert [(one["row"], one["truth"], one["predicted"]) for one in worst] == [
        (2, "owl", "cat"),
        (3, "dog", "owl"),
    ]
    assert worst[0]["confidence"] > 0.99
    assert worst[0]["text"].startswith("ccc")
    assert len(worst[0]["text"]) < 500


def test_worst_images_are_pictures() -> None:
    images = np.zeros((4, 3, 200, 100), np.uint8)
    images[2, 0] = 255
    examples = Examples(images, TARGETS)
    worst = evaluate(data(examples, "image"), "test", examples, LOGITS)["worst"]
    head, _, body = worst[0]["image"].partition(",")
    assert head == "data:image/png;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(body)))
    assert shown.size == (48, 96)
    assert shown.getpixel((0, 0)) == (255, 0, 0)


def test_worst_rows_are_cells() -> None:
    columns = {"age": np.array([1.0, 2.0, np.nan, 4.0]), "job": np.array(["a", "b", "c", "d"], dtype=object)}
    examples = Examples(columns, TARGETS)
    worst = evaluate(data(examples, "table"), "test", examples, LOGITS)["worst"]
    assert worst[0]["cells"] == {"age": None, "job": "c"}


def test_many_classes_are_listed_by_their_confusions() -> None:
    count = CLASSES_IN_A_MATRIX + 1
    logits = np.eye(count)
    targets = np.arange(count)
    targets[7] = 3
    examples = Examples(["x"] * count, targets)
    found = evaluate(data(examples), "test", examples, logits)["classification"]
    assert "confusion" not in found
    assert found["confused"] == [{"truth": "3", "predicted": "7", "count": 1}]


def test_calibration_of_an_overconfident_model() -> None:
    bins, error = calibration(np.array([0.95, 0.95, 0.55, 0.55]), np.array([True, False, True, False]))
    assert [(one["count"], one["accuracy"]) for one in bins] == [(2, 0.5), (2, 0.5)]
    assert error == pytest.approx(0.25)


def test_regression_has_residuals() -> None:
    targets = np.linspace(0, 1, 5000, dtype=np.float32)
    predicted = targets.copy()[:, None]
    predicted[42] += 3
    examples = Examples(np.zeros((5000, 2), np.float32), targets)
    found = evaluate(data(examples, "tensor", "regression"), "validation", examples, predicted)
    assert found["regression"]["rmse"] == pytest.approx(3 / np.sqrt(5000), rel=1e-3)
    assert len(found["regression"]["points"]) == POINTS
    assert found["worst"][0]["row"] == 42


def test_outputs_of_another_shape_are_only_counted() -> None:
    examples = Examples(["a", "b"], np.zeros((2, 5), np.int64))
    found = evaluate(data(examples), "test", examples, np.zeros((2, 5, 3)))
    assert set(found) == {"split", "examples", "fingerprint", "task"}


def test_the_fingerprint_is_of_the_items_and_targets_not_of_their_order() -> None:
    one = Examples(["a", "b", "c"], np.array([0, 1, 2]))
    assert fingerprint(one) == fingerprint(one.take([2, 0, 1]))
    assert fingerprint(one) != fingerprint(Examples(["a", "b", "d"], np.array([0, 1, 2])))
    assert fingerprint(one) != fingerprint(Examples(["a", "b", "c"], np.array([1, 0, 2])))
