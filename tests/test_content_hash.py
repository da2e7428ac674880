import numpy as np

from fulldeck.content_hash import content_hash


def test_equal_content_has_an_equal_hash_wherever_it_stands():
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
    assert (content_hash(images[::-1]) == content_hash(images)[::-1]).all()
    assert len(np.unique(content_hash(images))) == 20


def test_the_hash_is_the_same_in_every_release():
    """A changed hash would move items between the splits of users' data."""
    assert content_hash(np.arange(4, dtype=np.uint8).reshape(2, 2)).tolist() == [
        2969676584265609,
        12862584147474561180,
    ]
    assert content_hash(["a text"]).tolist() == [17436228017912860156]
    assert content_hash({"a": np.array([1.5]), "b": np.array(["x"])}).tolist() == [16894085686275197189]


def test_arrays_of_another_type_or_shape_differ():
    zeros = np.zeros((1, 4), dtype=np.uint8)
    assert content_hash(zeros) != content_hash(zeros.astype(np.int64))
    assert content_hash(zeros) != content_hash(zeros.reshape(1, 2, 2))


def test_minus_zero_is_zero():
    assert content_hash(np.array([[0.0, 1.0]])) == content_hash(np.array([[-0.0, 1.0]]))
    assert content_hash({"a": np.array([0.0])}) == content_hash({"a": np.array([-0.0])})


def test_texts_that_differ_in_case_or_space_are_one():
    assert content_hash(["A  Text\n", "a text", "atext"])[0] == content_hash(["a text"])[0]
    assert content_hash(["atext"]) != content_hash(["a text"])


def test_rows_of_a_table_do_not_depend_on_column_order_or_on_integer_against_float():
    one = {"age": np.array([30, 31]), "job": np.array(["a", " A"], dtype=object)}
    two = {"job": np.array(["a", "a"]), "age": np.array([30.0, 31.0])}
    assert (content_hash(one) == content_hash(two)).all()


def test_missing_values_are_equal_to_each_other():
    column = np.array([np.nan, -np.nan, 1.0])
    hashes = content_hash({"a": column, "b": np.array([None, None, "x"], dtype=object)})
    assert hashes[0] == hashes[1] != hashes[2]
