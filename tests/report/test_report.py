"""The page of a run as text: what it holds, what it leaves out, and that nothing in it is executed."""

import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fulldeck.errors import RunFailed
from fulldeck.report import write_report
from tests.report.run_folders import HOSTILE, classification, metrics, plan, regression, result, write_run

Report = Callable[..., str]


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """The page of a run that is written as `write_run` does, without some of its files."""

    def write(without: tuple[str, ...] = (), **changed: object) -> str:
        folder = write_run(tmp_path / "20261123-141500-digits", **changed)
        for name in without:
            (folder / name).unlink()
        return write_report(folder).read_text()

    return write


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', page)


class Tags(HTMLParser):
    """Tags with their attributes, as a browser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_all_sections_of_a_classification(report: Report) -> None:
    page = report()
    assert sections(page) == [
        *("figures", "plan", "curves", "changes", "parity", "classes"),
        *("calibration", "worst", "time", "machine", "notes", "again"),
    ]
    links = re.findall(r'<li><a href="#(\w+)"', page)
    assert links == sections(page)
    assert "the reason of onnx_export" in page
    assert "fulldeck run " in page
    assert "This run" not in page


def test_a_regression_has_residuals(report: Report) -> None:
    assert "residuals" in sections(report(evaluation=regression()))


def test_samples(report: Report) -> None:
    page = report(evaluation={"split": "test", "samples": [{"prompt": "Once", "text": " upon a time"}]})
    assert "<b>Once</b> upon a time" in page
    assert "classes" not in sections(page)


def test_many_classes_are_given_as_a_list_of_confusions(report: Report) -> None:
    evaluation = classification()
    del evaluation["classification"]["confusion"]
    evaluation["classification"]["confused"] = [{"truth": "cat", "predicted": "dog", "count": 9}]
    page = report(evaluation=evaluation)
    assert "<td>cat</td><td>dog</td>" in page
    assert '<table class="matrix' not in page


def test_a_failed_run_shows_what_there_is(report: Report) -> None:
    page = report(
        without=("evaluation.json",),
        result=result(status="failed", error="the loss is nan", metrics={}, rehearsal=None, artifacts=[]),
    )
    assert "<strong>This run failed:</strong> the loss is nan" in page
    assert "fulldeck run RECIPE --resume" in page
    assert "curves" in sections(page)
    assert "figures" not in sections(page)


def test_a_half_deleted_run_says_what_is_missing_and_why(report: Report) -> None:
    page = report(without=("result.json", "metrics.jsonl", "evaluation.json"))
    assert "How this run ended is not known" in page
    assert "<code>result.json</code> (how the run ended, its figures and the machine): it is not" in page
    assert sections(page) == ["plan", "again"]
    assert "uPlot=" not in page, "no charts, no chart library"


def test_a_skipped_instruction_says_why(report: Report) -> None:
    made = plan()
    made["steps"][1]["skipped"] = "this machine has no such thing"
    page = report(plan=made)
    assert "this machine has no such thing" in page


def test_nothing_that_a_user_named_is_executed(report: Report) -> None:
    evil = result(recipe=HOSTILE, error=HOSTILE, notes=[HOSTILE], status="failed")
    evil["machine"]["processor"] = HOSTILE
    evil["instructions"][0]["label"] = HOSTILE
    evil["metrics"]["test"] = {HOSTILE: 0.5}
    evaluation = classification((HOSTILE, "one", "two"))
    evaluation["worst"][0]["image"] = f'" onerror="alert(1){HOSTILE}'
    evaluation["samples"] = [{"prompt": HOSTILE, "text": HOSTILE}]
    lines = [{"epoch": 0, "step": 3, "loss": 1.0, f"validation_{HOSTILE}'": 0.5, "lr": 0.1}]
    page = report(result=evil, evaluation=evaluation, metrics=lines, recipe=f"workload: '{HOSTILE}'")
    found = Tags(page).found
    assert [tag for tag, _ in found].count("script") == 2
    assert not [name for _, attributes in found for name in attributes if name.startswith("on")]
    assert not [attributes for tag, attributes in found if tag == "img"]


def test_the_page_is_one_file_that_names_no_other(report: Report) -> None:
    for tag, attributes in Tags(report()).found:
        for name in ("src", "href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:")), (tag, target)


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_a_hundred_classes_and_a_long_run_stay_small(report: Report) -> None:
    names = tuple(f"class {number}" for number in range(100))
    page = report(evaluation=classification(names), metrics=metrics(epochs=100, steps=100))
    assert len(page.encode()) <= 1_500_000


def test_reports_are_written_without_torch(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    code = f"""if True:
        import sys
        from fulldeck.cli import main
        assert main(["report", {str(folder)!r}]) == 0
        assert not {{"torch", "numpy", "rich"}} & set(sys.modules), sys.modules.keys()
    """
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_file_of_another_form_is_told_in_one_line(report: Report, tmp_path: Path) -> None:
    with pytest.raises(
        RunFailed, match=r"has not the form that this version of fulldeck writes .*'int'"
    ) as caught:
        report(result=result(instructions=[{"name": "onnx_export", "number": 32, "changes": {"bytes": 3}}]))
    assert "\n" not in str(caught.value)
