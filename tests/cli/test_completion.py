"""Completion by the shell: what is offered, and that a tab does not load torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fulldeck.cli.completion import instruction_names, recipe_names, run_folders, stage_names

HEAVY = {"torch", "numpy", "ruamel"}


def complete(words: str, folder: Path) -> list[str]:
    """What bash is offered after `words`; fails if anything heavy was loaded for it."""
    code = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: sys.stderr.write(json.dumps([n.split('.')[0] for n in sys.modules])))\n"
        "from fulldeck.cli import main; main()"
    )
    count = str(len(words.split(" ")) - 1)
    environment = {"_FULLDECK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=os.environ | environment
    )
    assert not HEAVY & set(json.loads(done.stderr))
    return done.stdout.split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("runs/20261123-141500-digits", "runs/20261124-141500-digits", "photos"):
        (tmp_path / name).mkdir(parents=True)
    for run in (tmp_path / "runs").iterdir():
        (run / "recipe.yaml").write_text("")
    (tmp_path / "runs" / "latest").symlink_to("20261124-141500-digits")
    for name in ("mine.yaml", "notes.txt"):
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("fulldeck show onnx", ["onnx_export"]),
        ("fulldeck run dig", ["digits"]),
        ("fulldeck explain mi", ["mine.yaml"]),
        ("fulldeck list --stage inf", ["inference"]),
        ("fulldeck serve runs/la", ["runs/latest"]),
        ("fulldeck expl", ["explain"]),
    ],
)
def test_bash_is_offered(folder: Path, words: str, offered: list[str]) -> None:
    assert complete(words, folder) == offered


def test_what_is_offered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert dict(instruction_names("onnx_"))["onnx_export"].startswith("Export the model")
    assert stage_names("d") == ["data", "deployment"]
    assert recipe_names("") == [*recipe_names("")[:-3], "mine.yaml", "photos/", "runs/"]
    assert "digits" in recipe_names("")
    assert run_folders("") == ["photos/", "runs/"]
    assert run_folders("runs/") == [
        "runs/latest",
        "runs/20261124-141500-digits",
        "runs/20261123-141500-digits",
    ]
    assert run_folders("nowhere/") == []


def test_shells_can_install_it(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fulldeck", "--show-completion", "bash"],
        capture_output=True,
        text=True,
        env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )
    assert "_FULLDECK_COMPLETE=complete_bash" in done.stdout
