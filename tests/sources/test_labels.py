import numpy as np
import pytest

from fulldeck.errors import BadInput
from fulldeck.sources.labels import index_labels


def index(*labels):
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return index_labels(array, "column")


def test_numbers_are_ordered_by_size_and_texts_by_name():
    assert index_labels(np.array([10, 9, 10]), "x").classes == ("9", "10")
    assert index("b", "a").targets.tolist() == [1, 0]
    assert index("10", "9").classes == ("9", "10")
    assert index(1.0, 2.0).classes == ("1", "2")
    assert index(True, False).classes == ("false", "true")


def test_missing_labels_are_not_kept_and_counted():
    labels = index("a", None, "b", "?", float("nan"))
    assert labels.kept.tolist() == [True, False, True, False, False]
    assert labels.targets.tolist() == [0, 1]
    assert labels.notes == ("labels: 3 rows without a label are left out",)


def test_a_full_stop_is_dropped_only_if_every_such_label_occurs_without():
    assert index("a", "b", "a.", "b.").classes == ("a", "b")
    assert index("a", "b", "c.").classes == ("a", "b", "c.")


def test_one_class_or_as_many_as_rows_are_refused():
    with pytest.raises(BadInput, match='column has only the class "a"'):
        index("a", " a ")
    with pytest.raises(BadInput, match="in 50 rows; is it the label"):
        index(*range(50))
    with pytest.raises(
        BadInput, match=r'a number is written like 1234\.5, and there is "0,5"; is it the label'
    ):
        index(*(f"{number},5" for number in range(50)))
