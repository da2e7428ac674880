"""`fulldeck init`: flags, questions on a terminal, and files that are not overwritten."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fulldeck.recipe.schema import recipe_schema

Cli = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    rows = "\n".join(f"{i},{i % 7},{'yes' if i % 2 else 'no'}" for i in range(60))
    path.write_text(f"age,rooms,bought\n{rows}\n")
    return path


def test_flags_write_a_recipe_that_runs(cli: Cli, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    answer = cli("init", "--data", data, "--goal", "small", "--out", out)
    assert answer.code == 0
    assert answer.out.endswith(f"Next:\n  fulldeck explain {out}\n  fulldeck run {out}\n")
    assert json.loads((tmp_path / "fulldeck.schema.json").read_text()) == recipe_schema()
    settings = ["--set", "train.epochs=1", "--set", "train.threads=1"]
    result = cli("run", out, *settings, "--out", tmp_path / "runs", "--json").json
    assert result["status"] == "finished"
    assert result["rehearsal"]["agreement"] == 1.0


def test_json_says_what_was_seen_and_chosen(cli: Cli, data: Path, tmp_path: Path) -> None:
    said = cli(
        "init", "--data", data, "--target", "rooms", "--yes", "--json", "--out", tmp_path / "r.yaml"
    ).json
    assert said["task"] == "classification"
    assert said["workload"] == {"kind": "table", "path": str(data), "target": "rooms"}
    assert said["goal"] == "balanced"
    assert said["instructions"]
    assert (tmp_path / "r.yaml").is_file()


def test_it_asks_on_a_terminal(cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(f"{data}\nage\n\nfastest\nfast\nmine\nnvidia-a100\n"))
    out = tmp_path / "r.yaml"
    answer = cli("init", "--out", out)
    assert answer.code == 0
    assert "Data (a folder, a file, or digits)" in answer.out
    assert "fastest is none of balanced, accurate, fast, small" in answer.out
    assert 'there is no hardware profile "mine"' in answer.out
    text = out.read_text()
    assert "\nhardware: nvidia-a100\n" in text
    assert "goal fast" in text
    assert "target: age" in text
    assert "target from 0 to 59" in answer.out
    assert "Task (classification, regression) [regression]" in answer.out, "by the target that was chosen"


def test_without_a_terminal_it_says_which_flags_to_give(cli: Cli, data: Path, tmp_path: Path) -> None:
    for words, absent in (
        ([], "--data PATH and --yes (or --goal GOAL)"),
        (["--data", data], "--yes (or --goal GOAL)"),
        (["--goal", "small"], "--data PATH"),
    ):
        answer = cli("init", *words, "--out", tmp_path / "r.yaml")
        assert (answer.code, answer.out) == (2, "")
        assert answer.err == f"error: there is no terminal to ask on; give {absent}\n"
    assert "give --data PATH" in cli("init", "--yes", "--out", tmp_path / "r.yaml").err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people.csv"]


def test_nothing_is_overwritten_unless_asked(cli: Cli, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.yaml"
    out.write_text("mine")
    answer = cli("init", "--data", data, "--yes", "--out", out)
    assert answer.code == 2
    assert "exists already; choose another with --out, or replace it with --force" in answer.err
    assert out.read_text() == "mine"
    assert cli("init", "--data", data, "--yes", "--out", out, "--force").code == 0
    assert out.read_text() != "mine"
    assert "is not a folder" in cli("init", "--data", data, "--yes", "--out", tmp_path / "no" / "r.yaml").err


def test_bad_data_write_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("a\n1\n")
    answer = cli("init", "--data", tmp_path / "one.csv", "--yes", "--out", tmp_path / "r.yaml")
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.csv"]


def test_it_fits_a_narrow_terminal(
    cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.chdir(tmp_path)
    shown = cli("init", "--data", "people.csv", "--yes").out.splitlines()
    assert max(map(len, shown)) <= 40


def test_a_recipe_for_another_machine(cli: Cli, data: Path, tmp_path: Path) -> None:
    (tmp_path / "rack").mkdir()
    profile = tmp_path / "rack" / "mine.toml"
    profile.write_text('title = "My machine"\ndevice = "cpu"\nsource = "a guess"\n')
    out = tmp_path / "r.yaml"
    answer = cli("init", "--data", data, "--yes", "--hardware", profile, "--out", out)
    assert answer.out.endswith(f"Next:\n  fulldeck plan {out}\n")
    assert "\n# The machine: My machine. " in out.read_text()
    assert "\nhardware: rack/mine.toml\n" in out.read_text()
    assert cli("plan", out, "--json").json["hardware"]["title"] == "My machine"
    refused = cli("init", "--data", data, "--yes", "--hardware", "nvidia", "--out", tmp_path / "s.yaml")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
