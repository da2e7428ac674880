"""`fulldeck doctor`: a verdict a line."""

import sys
from collections.abc import Callable
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest

from fulldeck import doctor
from fulldeck.catalogue import Catalogue, catalogue
from fulldeck.hardware import find_profile
from fulldeck.installed import Need

Cli = Callable[..., Any]


def test_it_tells_machine_versions_engines_and_instructions(cli: Cli) -> None:
    findings = cli("doctor", "--json").json
    assert findings.pop("summary").startswith("everything that the recipe digits needs is here")
    assert list(findings) == [
        "machine",
        "accelerators",
        "versions",
        "extras",
        "engines",
        "instructions",
    ]
    assert {line["name"] for line in findings["versions"]} >= {"fulldeck", "python", "torch"}
    assert [line["name"] for line in findings["engines"]] == [
        *("torch", "torch_compiled", "onnxruntime", "openvino", "tvm", "tensorrt")
    ]
    for line in findings["engines"]:
        assert line["verdict"] == "ok" or line["remedy"]
    assert len(findings["instructions"]) == len(catalogue().entries)
    assert {line["verdict"] for lines in findings.values() for line in lines} <= {"ok", "note", "missing"}
    shown = cli("doctor").out
    assert f"python: {sys.version.split()[0]}" in shown
    assert shown.splitlines()[-1].startswith("everything that the recipe digits needs is here")


def test_what_is_missing_stands_with_the_remedy(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(owner: Distribution, extra: str | None = None) -> list[Need]:
        if extra is not None:
            return [Need("polars", ">=1.20", None, False)]
        return [Need("onnx", ">=1.18", "1.2", False), Need("numpy", ">=2", "2.4", True)]

    monkeypatch.setattr(doctor, "needs", found)
    monkeypatch.setattr(doctor, "LITTLE_MEMORY", 2**60)
    answer = cli("doctor")
    assert answer.code == 0
    for text in (
        'missing onnx: 1.2, and fulldeck takes >=1.18\n          pip install "onnx>=1.18"\n',
        'note    files: without polars\n          pip install "fulldeck[files]"\n',
        "free, which is little\n          close other programs, or compute less at once",
        "ok      numpy: 2.4\n",
    ):
        assert text in answer.out
    assert answer.out.splitlines()[-1] == "one thing is missing that the recipe digits needs: onnx"


def test_it_fits_a_narrow_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert all(len(line) <= 40 or " " not in line.strip() for line in cli("doctor").out.splitlines())


def test_a_broken_plugin_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Catalogue(catalogue().entries, {"gone": "ModuleNotFoundError: no module named gone"})
    monkeypatch.setattr(doctor, "catalogue", lambda: broken)
    assert 'plugin "gone": broken: ModuleNotFoundError' in cli("doctor").out


def test_the_profile_that_applies_and_why(cli: Cli) -> None:
    lines = cli("doctor", "--json").json["machine"]
    (found,) = (line["found"] for line in lines if line["name"] == "hardware profile")
    assert "the processor has" in found


def test_calibrating_writes_a_profile_that_a_recipe_can_use(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    assert cli("doctor", "--calibrate", file).code == 0
    profile = find_profile(file)
    assert profile.flops_per_s["float32"] > 1e9
    assert profile.bytes_per_s is not None
    assert profile.source.startswith("measured by fulldeck doctor")
    again = cli("doctor", "--calibrate", file)
    assert (again.code, "exists; name another" in again.err) == (2, True)
    assert cli("doctor", "--calibrate", tmp_path / "mine.yaml").code == 2
