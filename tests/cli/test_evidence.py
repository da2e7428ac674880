"""`fulldeck evidence`: what has been measured, as a list and as a page."""

import json
from collections.abc import Callable
from pathlib import Path

from fulldeck.evidence.store import keep, keep_contributions
from tests.cli.conftest import Answer
from tests.report.measurements import contributions, evidence

Cli = Callable[..., Answer]


def test_results_as_a_list_and_as_a_page(cli: Cli, tmp_path: Path) -> None:
    for result in evidence():
        keep(result, tmp_path / "kept")
    keep_contributions(contributions(), tmp_path / "kept")
    page = tmp_path / "evidence.html"
    answer = cli("evidence", "--out", tmp_path / "kept", "--page", page)
    assert answer.code == 0
    assert "inconclusive" in answer.out
    assert answer.out.splitlines()[-1] == str(page)
    assert "7 measurements against" in page.read_text()
    assert "digits-robust" in page.read_text()
    answer = cli("evidence", "--out", tmp_path / "kept", "--page", page, "--json")
    assert len(answer.json) == len(evidence())


def test_nothing_yet(cli: Cli, tmp_path: Path) -> None:
    answer = cli("evidence", "--out", tmp_path / "none", "--page", tmp_path / "evidence.html")
    assert answer.code == 0
    assert f"nothing has been measured in {tmp_path}/none/; begin with: " in answer.out
    assert "Nothing has been measured yet" in (tmp_path / "evidence.html").read_text()


def test_bad_input_in_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    answer = cli("evidence", "--out", tmp_path, "--page", tmp_path / "evidence.html", "--json")
    assert answer.code == 2
    assert "is not JSON" in json.loads(answer.out)["error"]
    assert not (tmp_path / "evidence.html").exists()
    (tmp_path / "broken.json").unlink()
    (tmp_path / "folder.html").mkdir()
    answer = cli("evidence", "--out", tmp_path, "--page", tmp_path / "folder.html")
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
