"""`fulldeck verify`: several at once, what cannot be measured, and going on where it was left."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fulldeck.evidence.resume import standing
from fulldeck.evidence.store import keep
from fulldeck.evidence.verify import refused
from fulldeck.machine import describe_machine, revision
from tests.cli.conftest import Answer

Cli = Callable[..., Answer]


def test_one_that_cannot_be_measured_hides_no_other_and_is_kept(cli: Cli, tmp_path: Path) -> None:
    words = ("verify", "weight_averaging", "lr_scheduler", "--out", tmp_path, "--json")
    answer = cli(*words, "--budget", "0.2")
    assert answer.code == 0
    assert [one["verdict"] for one in answer.json] == ["not measured"] * 2
    kept = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert set(kept) == {"weight_averaging-not-measured.json", "lr_scheduler-not-measured.json"}
    assert "the budget was spent" in kept["weight_averaging-not-measured.json"]["reason"]
    # As much time was given before, so nothing is measured again.
    again = cli(*words, "--budget", "0.1", "--resume")
    assert [one["time"] for one in again.json] == [one["time"] for one in answer.json]
    listed = cli("evidence", "--out", tmp_path)
    assert listed.out.count("not measured") == 2
    assert listed.out.count("the budget was") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say what to verify"),
        (("lr_scheduler", "--all"), "say what to verify"),
        (("--all", "--recipe", "digits"), "leave --recipe out"),
        (("lr_scheduler", "--recipe", "digits", "--resume"), "leave --recipe and --against out"),
        (("lr_schedular",), "did you mean lr_scheduler"),
        (("lr_scheduler", "weight"), 'unknown instruction "weight"'),
        (("lr_scheduler", "--budget", "soon"), "a budget is a time"),
    ],
)
def test_bad_input(cli: Cli, words: tuple[str, ...], said: str) -> None:
    answer = cli("verify", *words, "--json")
    assert answer.code == 2
    assert said in answer.json["error"]


@pytest.mark.parametrize(
    "changed",
    [
        {"revision": "0123456789ab"},
        {"machine": describe_machine() | {"processor": "another"}},
        {"status": "interrupted"},
        {"quick": True},
        {"budget": 10.0},
    ],
)
def test_what_no_longer_stands_is_measured_again(changed: dict[str, Any], tmp_path: Path) -> None:
    result = {
        "name": "lr_scheduler",
        "workload": "digits",
        "verdict": "helps",
        "status": "finished",
        "quick": False,
        "budget": None,
        "machine": describe_machine(),
        "revision": revision(),
    }
    keep(result, tmp_path)
    assert set(standing(tmp_path, quick=False, budget=60.0)) == {"lr_scheduler"}
    keep(result | changed, tmp_path)
    assert standing(tmp_path, quick=False, budget=60.0) == {}


def test_a_measurement_takes_the_place_of_a_refusal_and_none_is_lost_to_one(tmp_path: Path) -> None:
    result = {"name": "lr_scheduler", "workload": "digits"}
    refusal = keep(result | {"verdict": "not measured"}, tmp_path)
    measured = keep(result | {"verdict": "helps"}, tmp_path)
    assert not refusal.exists()
    keep(result | {"verdict": "not measured"}, tmp_path)
    assert json.loads(measured.read_text())["verdict"] == "helps"


def test_a_kept_reason_names_no_file_that_is_gone() -> None:
    there = f"{tempfile.gettempdir()}/fulldeck-verify-1/log.txt"
    kept = refused("lr_scheduler", f"the arm baseline failed: it ended ({there}:5) (log: {there})")
    assert kept["reason"] == "the arm baseline failed: it ended"
