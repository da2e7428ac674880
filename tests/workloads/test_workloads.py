import pytest

from fulldeck.errors import BadInput
from fulldeck.workload import Workload
from fulldeck.workloads import WORKLOADS, make_workload, workload_class


def test_workloads_are_found_by_file():
    assert set(WORKLOADS) >= {
        "breast_cancer",
        "digits",
        "images",
        "language_model",
        "python",
        "stdlib_text",
        "table",
        "text",
    }


@pytest.mark.parametrize("name", WORKLOADS)
def test_each_says_what_it_is(name):
    cls = workload_class(name)
    assert issubclass(cls, Workload)
    assert cls.kind == name
    assert cls.data_kind in ("image", "table", "text", "tokens", "tensor", "unknown")
    for field in cls.model_fields.values():
        assert field.description.endswith(".")


def test_a_name_or_a_mapping_makes_one():
    assert make_workload("digits") == make_workload({"kind": "digits"})
    assert make_workload({"kind": "table", "path": "a/my table (1).csv"}).name == "my_table_1_"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("digit", r'unknown workload "digit"; did you mean digits\?; there is breast_cancer, digits'),
        ({"path": "x"}, "workload needs a kind"),
        ({"kind": "image", "path": "x"}, r"did you mean images\?"),
        ({"kind": "images"}, "workload images.path is required"),
        ({"kind": "images", "path": 3}, "workload images.path must be a text, got 3"),
        ({"kind": "images", "path": "x", "lable": "y"}, r'unknown parameter "lable" .* did you mean label\?'),
        ({"kind": "images", "path": "x", "size": 2}, "size must be at least 4, got 2"),
        ({"kind": "digits", "path": "x"}, 'unknown parameter "path" of workload digits'),
    ],
)
def test_refuses_in_one_line(value, words):
    with pytest.raises(BadInput, match=words):
        make_workload(value)
