"""`fulldeck compare`: the table on the terminal, the page, and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.run_folders import RECIPE, result, write_run

Cli = Callable[..., Any]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs, the second with more epochs and a better model."""
    better = result(metrics={"test": {"accuracy": 0.99}})
    return [
        write_run(tmp_path / "one"),
        write_run(tmp_path / "two", recipe=RECIPE.replace("epochs: 3", "epochs: 9"), result=better),
    ]


def test_the_terminal_has_what_differs_and_stars_the_best(cli: Cli, runs: list[Path]) -> None:
    lines = [line.split() for line in cli("compare", *runs).out.splitlines()]
    assert ["train.epochs", "3", "9"] in lines
    assert [
        word.replace("\N{NO-BREAK SPACE}", " ") for word in next(w for w in lines if "test_accuracy" in w)
    ] == [
        "test_accuracy",
        *("97.50", "%", "99.00", "%", "*"),
    ]
    assert not any("careful:" in line for line in lines)
    assert lines[-1][:5] == ["*", "the", "best", "of", "its"]


def test_json_and_the_page(cli: Cli, runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "compare.html"
    answer = cli("compare", *runs, "--out", out, "--json").json
    assert [run["letter"] for run in answer["runs"]] == ["A", "B"]
    assert {"name": "train.epochs", "values": [3, 9]} in answer["recipe"]
    assert answer["out"] == str(out)
    assert "What was asked for differently" in out.read_text()


def test_other_data_is_warned_of(cli: Cli, tmp_path: Path, runs: list[Path]) -> None:
    other = write_run(tmp_path / "three", recipe=RECIPE.replace("digits", "breast_cancer"))
    answer = cli("compare", *runs, other)
    assert answer.code == 0
    assert "careful: different workloads, so metrics cannot be compared" in answer.out


@pytest.mark.parametrize("columns", ["40", "100"])
def test_lines_fit_the_terminal(
    cli: Cli, runs: list[Path], columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    body = cli("compare", *runs).out.split("\n\n", 1)[1]
    assert max(map(len, body.splitlines())) <= int(columns)
    assert ("A 3" in body and "B 9" in body) == (columns == "40"), "narrow: the letters stand with the values"


def test_what_cannot_be_compared_is_refused_in_one_line(cli: Cli, runs: list[Path], tmp_path: Path) -> None:
    for words, said in (
        (runs[:1], "compare takes 2 to 26 runs"),
        ([runs[0], runs[0]], "are the same run"),
        ([runs[0], tmp_path / "nowhere"], "does not exist"),
        ([*runs, "--open"], "add --out compare.html"),
        ([*runs, "--out", tmp_path / "no" / "such.html"], "cannot write"),
    ):
        answer = cli("compare", *words)
        assert (answer.code, answer.out) == (2, "")
        assert said in answer.err
        assert len(answer.err.splitlines()) == 1
