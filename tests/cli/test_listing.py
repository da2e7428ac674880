"""`fulldeck list`."""

from collections.abc import Callable
from typing import Any

import pytest

from fulldeck.catalogue import Catalogue, catalogue
from fulldeck.cli import listing

Cli = Callable[..., Any]


def test_every_instruction_by_number(cli: Cli) -> None:
    lines = [line for line in cli("list").out.splitlines() if line[:1].isdigit()]
    assert [line.split()[1] for line in lines] == [entry.name for entry in catalogue()]
    assert [item["name"] for item in cli("list", "--json").json["instructions"]] == list(catalogue().entries)


def test_one_stage(cli: Cli) -> None:
    found = cli("list", "--stage", "inference", "--json").json["instructions"]
    assert found
    assert {item["stage"] for item in found} == {"inference"}


def test_a_broken_plugin_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Catalogue(catalogue().entries, {"gone": "ModuleNotFoundError: no module named gone"})
    monkeypatch.setattr(listing, "catalogue", lambda: broken)
    answer = cli("list")
    assert answer.code == 0
    assert 'plugin "gone" is broken and left out: ModuleNotFoundError: no module named gone' in answer.err
    assert cli("list", "--json").json["broken"] == broken.broken
