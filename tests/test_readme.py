"""What the README shows runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import fulldeck as fd
from fulldeck.pipeline import plan

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    if "build" in names:
        (tmp_path / "readme_factory.py").write_text(block)
        result = fd.run(
            {"kind": "python", "factory": "readme_factory:build"}, [], out=tmp_path / "runs", epochs=2
        )
        assert result["metrics"]["test"]["accuracy"] > 0.4
    else:
        assert (tmp_path / "model.onnx").is_file()


@pytest.mark.parametrize("block", blocks("yaml"))
def test_recipes_plan(block: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(block)
    assert len(plan(path).steps) == 8


def test_commands_exist() -> None:
    from fulldeck.cli import COMMANDS

    named = re.findall(r"fulldeck ([a-z]+)", " ".join(blocks("") + re.findall(r"`(fulldeck [^`]+)`", README)))
    assert named
    assert set(named) <= set(COMMANDS)
