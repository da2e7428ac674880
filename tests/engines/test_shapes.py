"""The sizes that a model is compiled for."""

import numpy as np
import pytest

from fulldeck.engines.shapes import Range, all_fixed, shapes_of
from fulldeck.errors import BadInput

EXAMPLE = {"input": np.zeros((4, 3, 8, 8), np.float32)}


@pytest.mark.parametrize(
    ("word", "batch"),
    [("8", Range(8, 8, 8)), ("1:64", Range(1, 1, 64)), ("2:8:64", Range(2, 8, 64))],
)
def test_a_batch_alone_leaves_the_other_axes_as_they_are(word: str, batch: Range) -> None:
    assert shapes_of(EXAMPLE, [word])["input"] == (batch, Range(3, 3, 3), Range(8, 8, 8), Range(8, 8, 8))


def test_all_axes_of_one_input() -> None:
    axes = shapes_of(EXAMPLE, ["input=1x3x4:8:16x8"])["input"]
    assert axes == (Range(1, 1, 1), Range(3, 3, 3), Range(4, 8, 16), Range(8, 8, 8))
    assert all_fixed(shapes_of(EXAMPLE, ["input=1x3x8x8"]))
    assert not all_fixed(shapes_of(EXAMPLE))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("0", "is no range of sizes; write 8, 1:64 (least:largest) or 1:8:64"),
        ("64:1", "is no range of sizes"),
        ("1:2:3:4", "is no range of sizes"),
        ("many", "is no range of sizes"),
        ("inputs=1x3x8x8", 'there is no input "inputs"; did you mean input?'),
        ("input=1x3", "input has 4 axes, the batch first"),
    ],
)
def test_what_is_no_size_is_refused(word: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        shapes_of(EXAMPLE, [word])
    assert message in str(caught.value)
    assert f"--shapes {word}" in str(caught.value)
