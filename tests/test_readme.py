"""What the README shows runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fulldeck.pipeline import plan

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
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
