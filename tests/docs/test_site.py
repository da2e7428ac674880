"""The site: builds without a warning, links and anchors within it hold, and it loads nothing from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import generate_pages
import instruction_page
import measurement_page
import pytest

from fulldeck.catalogue import built_in
from fulldeck.cli import COMMANDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    assert not built.stdout + built.stderr
    return folder


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    loading = re.compile(r'<(?:script|img|iframe)[^>]+src="(https?:)?//|<link[^>]+href="(https?:)?//')
    for page in site.rglob("*.html"):
        assert not loading.search(page.read_text()), page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?https?:", style.read_text()), style


def test_every_instruction_has_a_page(site: Path) -> None:
    for entry in built_in():
        text = (site / f"instructions/{entry.name}.html").read_text()
        for name in entry.parameters:
            assert f"<code>{name}</code>" in text
        kept = instruction_page.measured(entry.name) or instruction_page.refused(entry.name)
        assert ("Not measured yet." in text) == (not kept)


def test_every_command_is_described(site: Path) -> None:
    text = (site / "command-line.html").read_text()
    for name in COMMANDS:
        assert f'id="fulldeck-{name}"' in text


def test_no_source_of_the_generator_is_published(site: Path) -> None:
    assert not [*site.rglob("*.py"), *site.rglob("*.pyc")]


def test_every_result_is_shown_with_its_machine_and_command() -> None:
    text = measurement_page.page()
    results = sorted(measurement_page.RESULTS.glob("*.json"))
    assert results
    for result in results:
        section = text.split(f"## {result.stem.replace('_', ' ').capitalize()}\n")[1].split("\n## ")[0]
        assert f"`python benchmarks/{measurement_page.benchmark(result).name}" in section
        assert "Machine: " in section
        assert section.count("\n|") >= 3


def test_evidence_that_was_measured_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = built_in()[0]
    figure = {"metric": "steps", "verdict": "helps", "baseline": 90.0, "treatment": 45.0, "rounds": 10}
    cost = {
        "metric": "accuracy",
        "verdict": "no difference",
        "baseline": 0.97,
        "treatment": 0.972,
        "rounds": 10,
    }
    result = figure | {
        "name": entry.name,
        "number": entry.number,
        "workload": "digits",
        "claim": "<= 0.6x",
        "claim_holds": None,
        "repeated": "rounds",
        "ratio": 0.5,
        "interval": [0.4, 0.6],
        "costs": [cost | {"difference": 0.002, "ratio": 1.002, "interval": [-0.001, 0.005]}],
        "time": "2026-11-24T02:00:00+0000",
        "revision": "0123abc",
        "peers": {"other": figure | {"peer": "other", "ratio": 0.9, "interval": [None, None]}},
        "machine": {"processor": "AMD EPYC", "cores": 2, "accelerator": None},
    }
    (tmp_path / "one.json").write_text(json.dumps(result))
    monkeypatch.setattr(instruction_page, "EVIDENCE", tmp_path)
    text = instruction_page.page(entry)
    where = "10 rounds | AMD EPYC, 2 cores, 2026-11-24, revision 0123abc |"
    assert f"| digits | steps | 90 → 45 | 0.5x [0.4x, 0.6x] | helps | {where}" in text
    assert f"| digits | accuracy | 0.97 → 0.972 | +0.002 [-0.001, +0.005] | no difference | {where}" in text
    assert "| digits | steps, other in its place | 90 → 45 | 0.9x (too few for an interval) |" in text
    assert "Not measured yet." not in text
    shown = measurement_page.page()
    assert (
        f"| {entry.number:02d} | [`{entry.name}`](instructions/{entry.name}.md) | digits | steps 0.5x"
        in shown
    )
    assert "Measured on AMD EPYC, 2 cores, 2026-11-24, revision 0123abc." in shown


def test_what_could_not_be_measured_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = built_in()[0]
    refusal = {
        "name": entry.name,
        "number": entry.number,
        "workload": "digits",
        "verdict": "not measured",
        "reason": "there is no room",
        "time": "2026-11-24T02:00:00+0000",
        "revision": None,
        "machine": {"processor": "AMD EPYC", "cores": 2, "accelerator": None},
    }
    (tmp_path / "one.json").write_text(json.dumps(refusal))
    monkeypatch.setattr(instruction_page, "EVIDENCE", tmp_path)
    assert "Not measured on AMD EPYC, 2 cores, 2026-11-24: there is no room." in instruction_page.page(entry)
    assert "| not measured: there is no room |" in measurement_page.page()


def test_without_measurements_the_pages_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(instruction_page, "EVIDENCE", tmp_path / "absent")
    assert "Not measured yet." in instruction_page.page(built_in()[0])
    assert "What each instruction did" not in measurement_page.page()


def test_an_unknown_part_of_a_page_is_an_error() -> None:
    with pytest.raises(KeyError):
        generate_pages.complete("<!-- generated: nothing of this name -->")
