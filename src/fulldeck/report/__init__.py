"""Self-contained HTML pages: the report of a run, the comparison of several, a diagnosis, a search, measurements.

They only read what a run or a measurement wrote, so they need neither the model nor the data, and no torch; a
run that failed, still runs or has lost files is shown as far as it goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fulldeck.files import write_text
from fulldeck.report.comparison import Comparison
from fulldeck.report.content import report_content
from fulldeck.report.diagnosis_page import diagnosis_content
from fulldeck.report.evidence_page import evidence_content
from fulldeck.report.page import render
from fulldeck.report.run_files import known_form, read_run
from fulldeck.report.tuning_page import tuning_content

REPORT = "report.html"


def write_report(run: Path, result: Mapping[str, Any] | None = None) -> Path:
    """Write `report.html` into the run folder `run`, and return its path.

    With `result`, as if its result.json held that already.

    Raises BadInput if `run` is no run folder or cannot be written.
    """
    files = read_run(run, result)
    path = files.folder / REPORT
    with known_form(run):
        page = render("report.html", **report_content(files))
    write_text(path, page)
    return path


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the comparison of runs (of `fulldeck.report.comparison.compare`) as a page to `path`.

    Raises BadInput if `path` cannot be written.
    """
    write_text(path, render("compare.html", comparison=comparison))


def write_diagnosis(result: Mapping[str, Any], path: Path) -> None:
    """Write a diagnosis (what `fulldeck diagnose` keeps as JSON) as a page to `path`.

    Raises BadInput if `path` cannot be written.
    """
    write_text(path, render("diagnosis.html", **diagnosis_content(result)))


def write_evidence(
    results: Sequence[Mapping[str, Any]],
    contributions: Sequence[Mapping[str, Any]],
    path: Path,
    refusals: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write results of `fulldeck verify`, and of `fulldeck verify --recipe` alone, as a page to `path`.

    `refusals` are the instructions that could not be measured.

    Raises BadInput if `path` cannot be written.
    """
    write_text(path, render("evidence.html", **evidence_content(results, contributions, refusals)))


def write_tuning(result: Mapping[str, Any], path: Path) -> None:
    """Write what a search came to (the result of `fulldeck tune`) as a page to `path`.

    Raises BadInput if `path` cannot be written.
    """
    write_text(path, render("tuning.html", **tuning_content(result)))
