"""`fulldeck report`: where it writes, what it says, what it refuses."""

import json
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.run_folders import write_run

Cli = Callable[..., Any]


def test_a_report_is_written_into_the_run(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "one")
    (tmp_path / "runs" / "latest").symlink_to("one")
    answer = cli("report", "runs/latest", "--json")
    report = tmp_path / "runs" / "one" / "report.html"
    assert answer.code == 0
    assert answer.json == {"report": "runs/one/report.html", "bytes": report.stat().st_size}
    assert "fulldeck serve runs/latest" not in report.read_text(), "latest is another run tomorrow"
    assert cli("report", "runs/latest").out.startswith("runs/one/report.html, ")


def test_it_is_shown_when_asked(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    folder = write_run(tmp_path / "run")
    assert cli("report", folder, "--open").code == 0
    assert shown == [(folder / "report.html").as_uri()]


def test_a_real_run_has_left_its_report(cli: Cli, finished: Path) -> None:
    written = (finished / "report.html").read_text()
    assert "accuracy on test data" in written
    assert cli("report", finished).code == 0
    assert (finished / "report.html").read_text() == written


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_what_is_no_run_is_refused_in_one_line(cli: Cli, tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    answer = cli("report", tmp_path / what)
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1
    assert not list((tmp_path / "empty").iterdir())


def test_a_folder_that_cannot_be_written_is_told(cli: Cli, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "report.html").mkdir()
    answer = cli("report", folder, "--json")
    assert answer.code == 2
    assert "cannot write" in json.loads(answer.out)["error"]
