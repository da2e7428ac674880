"""Inputs are checked before an engine sees them."""

import numpy as np
import pytest

from fulldeck.engines.shapes import Range, any_size
from fulldeck.engines.signature import Signature
from fulldeck.errors import BadInput

SIGNATURE = Signature(
    {
        "pixels": ("float32", (Range(1, 1, 64), Range(3, 3, 3), any_size())),
        "mask": ("int64", (Range(1, 1, 64),)),
    }
)
GOOD = {"pixels": np.zeros((2, 3, 5), np.float32), "mask": np.zeros(2, np.int64)}


def test_what_fits_passes_and_it_survives_json() -> None:
    SIGNATURE.check(GOOD)
    assert Signature.from_json(SIGNATURE.to_json()) == SIGNATURE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": np.zeros((2, 3, 5))}, 'input "pixels" is float64, and the model takes float32'),
        (
            {"pixels": np.zeros((2, 4, 5), np.float32)},
            'input "pixels" is 2 x 4 x 5, and the model takes 1 to 64 x 3 x at least 1',
        ),
        ({"pixels": np.zeros((2, 3), np.float32)}, 'input "pixels" is 2 x 3, and'),
        ({"pixels": np.float32(1)[()].reshape(())}, 'input "pixels" is a single value, and'),
        ({"mask": np.zeros(65, np.int64)}, 'input "mask" is 65, and the model takes 1 to 64'),
        ({"mask": np.zeros(0, np.int64)}, 'input "mask" is 0, and the model takes 1 to 64'),
        (
            {"masks": np.zeros(2, np.int64)},
            'the model has no input "masks"; did you mean mask?; it has pixels, mask',
        ),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        SIGNATURE.check({**GOOD, **change})
    assert str(caught.value).startswith(message)


def test_a_missing_input_is_named() -> None:
    with pytest.raises(BadInput, match='input "mask" is missing'):
        SIGNATURE.check({"pixels": GOOD["pixels"]})
