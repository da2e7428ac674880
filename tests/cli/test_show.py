"""`fulldeck show`."""

from collections.abc import Callable
from typing import Any

import pytest

from fulldeck.catalogue import catalogue

Cli = Callable[..., Any]


@pytest.mark.parametrize("name", catalogue().entries)
def test_everything_about_one(cli: Cli, name: str) -> None:
    entry = catalogue().find(name)
    shown = cli("show", name).out
    assert shown.startswith(f"{entry.number:02d} {name}\n")
    for text in ("Use when:", "Avoid when:", "Reference:", ">>> ", "claims:", *entry.parameters):
        assert text in shown
    assert cli("show", entry.number, "--json").json["doc"] == entry.doc


def test_the_names_in_python_are_those_of_the_package(cli: Cli) -> None:
    assert (
        "in Python: import fulldeck as fd; fd.OnnxExport, fd.embed_preprocessing"
        in cli("show", "onnx_export").out
    )


def test_it_fits_a_narrow_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = cli("show", "onnx_export").out.splitlines()
    assert all(len(line) <= 40 or " " not in line.strip() or line.startswith("    ") for line in shown)
