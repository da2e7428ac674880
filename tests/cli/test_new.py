"""`fulldeck new`: files, and what to type next. What they hold is tested in tests/test_scaffold.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., Any]


def test_a_plugin_and_what_to_type_next(cli: Cli, tmp_path: Path) -> None:
    answer = cli("new", "label_smoothing", "--into", tmp_path)
    assert answer.code == 0
    folder = tmp_path / "fulldeck-label-smoothing"
    assert f"pip install -e {folder}" in answer.out
    again = cli("new", "label_smoothing", "--into", tmp_path)
    assert again.code == 2
    assert "exists already" in again.err


def test_json_names_folder_and_files(cli: Cli, tmp_path: Path) -> None:
    content = cli("new", "label_smoothing", "--into", tmp_path, "--stage", "data", "--json").json
    assert all((Path(content["folder"]) / file).is_file() for file in content["files"])


def test_outside_a_checkout_there_is_nothing_to_build_in(cli: Cli, tmp_path: Path) -> None:
    answer = cli("new", "label_smoothing", "--built-in", "--into", tmp_path)
    assert answer.code == 2
    assert "is no checkout of fulldeck" in answer.err
    assert not list(tmp_path.iterdir())
