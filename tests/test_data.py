import numpy as np
import pytest

from fulldeck.data import Data, Examples


@pytest.mark.parametrize(
    "inputs",
    [
        np.arange(4),
        ["a", "b", "c", "d"],
        {"x": np.arange(4), "y": np.array(["a", None, "b", "c"], dtype=object)},
    ],
    ids=["array", "texts", "columns"],
)
@pytest.mark.parametrize("chosen", [[3, 1], np.array([False, True, False, True])], ids=["places", "mask"])
def test_take_gives_rows_of_everything(inputs, chosen):
    examples = Examples(inputs, np.arange(4), groups=np.array(list("wxyz")), times=np.arange(4.0))
    taken = examples.take(chosen)
    rows = [3, 1] if isinstance(chosen, list) else [1, 3]
    assert len(taken) == 2
    assert taken.targets.tolist() == rows
    assert taken.times.tolist() == rows
    assert taken.groups.tolist() == [list("wxyz")[row] for row in rows]
    if isinstance(inputs, dict):
        assert taken.inputs["x"].tolist() == rows
        assert taken.inputs["y"].tolist() == [inputs["y"][row] for row in rows]
    else:
        assert list(taken.inputs) == [inputs[row] for row in rows]


def test_splits_are_those_that_there_are():
    examples = Examples(["a"], np.zeros(1))
    data = Data("d", "text", "classification", examples)
    assert list(data.splits()) == ["train"]
    assert list(Data("d", "text", "classification", examples, test=examples).splits()) == ["train", "test"]


def test_notes_and_what_is_carried_are_added_without_changing_the_original():
    data = Data("d", "text", "classification", Examples(["a"], np.zeros(1)))
    more = data.noting("one", "two").carrying("split", 1).carrying("mix", 2)
    assert more.notes == ("one", "two")
    assert dict(more.carried) == {"split": 1, "mix": 2}
    assert data.notes == ()
    assert not data.carried
