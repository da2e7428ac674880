"""The report of a run, and the comparison of several: self-contained HTML pages made from a run's files.

They only read what a run wrote, so they need neither the model nor the data, and no torch; a run that
failed, still runs or has lost files is shown as far as it goes.
"""

from __future__ import annotations

from pathlib import Path

from fulldeck.files import write_text
from fulldeck.report.comparison import Comparison
from fulldeck.report.content import report_content
from fulldeck.report.page import render
from fulldeck.report.run_files import read_run

REPORT = "report.html"


def write_report(run: Path) -> Path:
    """Write `report.html` into the run folder `run`, and return its path.

    Raises BadInput if `run` is no run folder or cannot be written.
    """
    files = read_run(run)
    path = files.folder / REPORT
    write_text(path, render("report.html", **report_content(files)))
    return path


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the comparison of runs (of `fulldeck.report.comparison.compare`) as a page to `path`.

    Raises BadInput if `path` cannot be written.
    """
    write_text(path, render("compare.html", comparison=comparison))
