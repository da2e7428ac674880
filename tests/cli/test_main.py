"""What all commands have in common."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from fulldeck import __version__
from fulldeck.cli import COMMANDS

Cli = Callable[..., Any]


def test_help_lists_every_command(cli: Cli) -> None:
    for words in ([], ["--help"], ["-h"]):
        answer = cli(*words)
        assert answer.code == 0
        assert all(f"\n  {name} " in answer.out for name in COMMANDS)


def test_the_version_is_said(cli: Cli) -> None:
    assert cli("--version").out == f"{__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_and_an_example(cli: Cli, name: str) -> None:
    answer = cli(name, "--help")
    assert answer.code == 0
    assert "--json" in answer.out
    assert f"Example:\n    fulldeck {name}" in answer.out
    assert "Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted." in answer.out
    options = re.findall(r"^  (?:-\w, )?--[a-z-]+.*$\n(?:^ {8,}.*$\n)*", answer.out, re.MULTILINE)
    assert options
    for option in options:
        assert re.search(r"[.\]]$", option.strip()), f"{option} says what it means"


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_the_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = cli(*name.split(), "--help").out.partition("  Example:")[0]
    assert max(map(len, shown.splitlines())) <= columns


@pytest.mark.parametrize("words", [["--help"], ["list"], ["plan", "digits"], ["show", "32"], ["doctor"]])
def test_no_escapes_where_colours_are_not_wanted(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in cli(*words).out


def test_tables_fit_a_narrow_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for words in (["list"], ["plan", "digits"]):
        assert max(map(len, cli(*words).out.splitlines())) <= 40


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?"),
        (["run"], "Missing argument 'RECIPE'"),
        (["run", "digits", "--resum"], "No such option: --resum (Possible options: --resume)"),
        (["serve", "x", "--port", "many"], "Invalid value for"),
        (["serve", "x", "--port", "70000"], "Invalid value for"),
        (["plan", "digit"], 'there is no recipe "digit"; did you mean digits?'),
        (["show", "onx_export"], 'unknown instruction "onx_export"; did you mean onnx_export (32)?'),
        (["list", "--stage", "trainin"], 'no stage "trainin"; did you mean training?'),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(cli: Cli, words: list[str], message: str) -> None:
    answer = cli(*words)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {message}")
    assert answer.err.count("\n") == 1
    as_json = cli(*words, "--json")
    assert as_json.code == as_json.json["exit_code"] == 2
    assert as_json.json["error"].startswith(message)
