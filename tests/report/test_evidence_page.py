"""The page of measurements: verdicts in words, plots and tables, and that nothing in it is executed."""

import re
from pathlib import Path
from typing import Any

import pytest

from fulldeck.report import write_evidence
from tests.report.measurements import MACHINE, contributions, evidence, measured
from tests.report.run_folders import HOSTILE
from tests.report.test_diagnosis_page import words
from tests.report.test_report import Tags


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(results: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
        write_evidence(results, found, tmp_path / "evidence.html")
        return (tmp_path / "evidence.html").read_text()

    return write


def test_one_sentence_for_all(written: Any) -> None:
    said = words(written(evidence(), []))
    assert "7 measurements against the same recipe without the instruction: it helps in 3, makes no " in said
    assert "difference in 1, hurts in 1, is undecided in 2. What its author claims was reached in 2." in said
    said = words(written(evidence()[2:3], []))
    assert "1 measurement against" in said
    assert "was reached in none." in said


def test_effects_with_interval_claim_and_verdict(written: Any) -> None:
    made = written(evidence(), [])
    said = words(made)
    assert "0.62× (0.60× to 0.65×) helps" in said
    assert "+3.10 pp (+1.20 pp to +4.90 pp) helps" in said
    assert "0.80× (too few measurements for an interval) inconclusive" in said
    assert made.count('<figure class="forest">') == 3, "ratios, accuracy, robust accuracy"
    assert made.count('class="arrow"') == 2, "an unbounded interval goes on beyond both ends"
    assert made.count('class="control"') == 3
    assert '<p class="who"><strong>model_' not in made, "what stands alone has nothing to be compared with"
    assert "about 240 rounds would decide" in said


def test_machines_are_named_once_or_in_each_row(written: Any) -> None:
    one = measured("a", "helps", 0.5, 0.4, 0.6)
    other = measured("b", "helps", 0.5, 0.4, 0.6, machine=MACHINE | {"processor": "another", "load": 9})
    assert "All on one machine: a processor, 1 thread." in words(written([one, one], []))
    said = words(written([one, other], []))
    assert "2026-11-24 another, 1 thread" in said
    assert "All on one machine" not in said


def test_contributions_as_a_matrix_and_as_tables(written: Any) -> None:
    made = written([], [contributions()])
    said = words(made)
    assert "accuracy over 5 seeds, in percentage points".capitalize() in said
    cells = re.findall(r'<td class="(\w+)( alone)?"[^>]*title="([^"]+)">([^<]+)</td>', made)
    assert len(cells) == 10
    assert ("hurts", "", "auto_data_augmentation and weight_averaging: accuracy -1.70", "-1.70") in [
        (verdict, alone, title.split("\N{NO-BREAK SPACE}")[0], text) for verdict, alone, title, text in cells
    ]
    assert [text for _, alone, _, text in cells if alone] == ["-0.10", "+2.10", "+1.10", "-0.80"]
    assert ("open", "", "lr_scheduler and weight_averaging: not measured", "–") in cells
    assert "Not all pairs were measured: the budget was spent." in said
    assert "onnx_export was left in: post_training_quantization needs it" in said


def test_nothing_measured_yet(written: Any) -> None:
    assert "Nothing has been measured yet." in words(written([], []))


def test_nothing_in_results_is_executed(written: Any) -> None:
    result = evidence()[3] | {"name": HOSTILE, "workload": HOSTILE, "reason": HOSTILE, "verdict": "helps"}
    found = contributions()
    found["name"] = HOSTILE
    found["left_in"] = {HOSTILE: HOSTILE}
    found["instructions"][0]["label"] = HOSTILE
    found["pairs"] = []
    made = written([result], [found])
    assert "<script>" not in made
    assert not [name for _, attributes in Tags(made).found for name in attributes if name.startswith("on")]
