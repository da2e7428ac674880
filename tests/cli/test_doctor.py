"""`fulldeck doctor`: a verdict a line."""

import sys
from collections.abc import Callable
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest

from fulldeck import doctor
from fulldeck.catalogue import Catalogue, catalogue

Cli = Callable[..., Any]


def test_it_tells_machine_versions_engines_and_instructions(cli: Cli) -> None:
    findings = cli("doctor", "--json").json
    assert list(findings) == ["machine", "accelerators", "versions", "engines", "instructions"]
    assert {line["name"] for line in findings["versions"]} >= {"fulldeck", "python", "torch"}
    assert [line["name"] for line in findings["engines"]] == ["torch", "onnxruntime"]
    assert len(findings["instructions"]) == len(catalogue().entries)
    assert {line["verdict"] for lines in findings.values() for line in lines} <= {"ok", "note", "missing"}
    shown = cli("doctor").out
    assert f"python: {sys.version.split()[0]}" in shown


class Project(Distribution):
    """A distribution with an extra of two packages, one of which is not installed."""

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        lines = ["Name: some-plugin", "Version: 1", "Provides-Extra: all"]
        lines += [f"Requires-Dist: {name}>=1; extra == 'all'" for name in ("numpy", "no-such-package")]
        return "\n".join(lines)

    def locate_file(self, path: Any) -> Path:
        return Path(path)


def test_the_packages_of_an_extra_that_are_missing() -> None:
    assert doctor.missing_packages(Project(), "all") == ["no-such-package"]
    assert doctor.missing_packages(Project(), "other") == []
    assert doctor.missing_packages(distribution("fulldeck"), "files") == []


def test_a_broken_plugin_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Catalogue(catalogue().entries, {"gone": "ModuleNotFoundError: no module named gone"})
    monkeypatch.setattr(doctor, "catalogue", lambda: broken)
    assert 'plugin "gone": broken: ModuleNotFoundError' in cli("doctor").out
