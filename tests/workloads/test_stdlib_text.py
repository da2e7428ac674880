import sys

import pytest

from fulldeck.errors import BadInput
from fulldeck.workloads import make_workload, stdlib_text


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library of three files, one of which would do harm if it were imported."""
    text = "Return the {} of things, or raise KeyError where there is none of them."
    (tmp_path / "one.py").write_text(f'"""{text.format("sum")}"""\nraise SystemExit("imported")\n')
    (tmp_path / "two.py").write_text(
        f'class A:\n    """{text.format("sum")}"""\n    def f(self):\n        """{text.format("list")}"""\n'
    )
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "three.py").write_text(f'"""{text.format("test")}"""\n')
    monkeypatch.setattr(stdlib_text.sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def test_docstrings_are_parsed_and_each_counts_once(library):
    text = stdlib_text.docstrings(library, 10_000)
    assert sorted(part.split()[2] for part in text.split("\n\n")) == ["list", "sum"]
    assert "one" not in sys.modules


def test_a_library_without_sources_is_said(library):
    for path in library.rglob("*.py"):
        path.unlink()
    with pytest.raises(BadInput, match="has no source files; name a text"):
        make_workload("stdlib_text").load()


def test_the_real_one_is_the_same_each_time():
    workload = make_workload({"kind": "stdlib_text", "characters": 10_000, "length": 32})
    one, other = workload.load(), workload.load()
    assert (one.train.inputs == other.train.inputs).all()
    assert one.train.inputs.size > 7000
    assert "docstrings of Python" in one.notes[0]
