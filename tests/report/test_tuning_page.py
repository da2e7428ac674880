"""The page of a search, from a real one: the front of its trials drawn and listed, what mattered, what was tried."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from fulldeck.report.drawings import HEIGHT, WIDTH
from fulldeck.report.tuning_page import tuning_content
from fulldeck.report.words import shown
from fulldeck.tuning.tune import tune
from tests.report.test_diagnosis_page import words

WORKLOADS = Path(__file__).parents[1] / "tuning"
RECIPE = f"""\
workload: {{kind: python, factory: "workloads_to_tune:clouds", path: "{WORKLOADS}"}}
train: {{epochs: 9, batch_size: 32, learning_rate: 0.002, threads: 1, device: cpu}}
instructions:
  - leakage_safe_splitting: {{validation: 0.2, test: 0.2}}
  - onnx_export
search: {{train.learning_rate: [1.0e-5, 0.002, 0.02, 0.1], train.batch_size: [32, 128]}}
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("search")
    (folder / "mine.yaml").write_text(RECIPE)
    return tune(
        folder / "mine.yaml",
        goal="minimize validation_loss",
        trials=6,
        budget=110,
        out=folder / "tunings",
    )


@pytest.fixture
def page(result: dict[str, Any]) -> str:
    return (Path(result["run"]) / "tuning.html").read_text()


def rows(page: str, section: str) -> list[str]:
    """The words of each row of the table in a section."""
    content = page.partition(f'<section id="{section}">')[2].partition("</section>")[0]
    body = content.partition("<tbody>")[2]
    return [" ".join(unescape(re.sub("<[^>]*>", " ", row)).split()) for row in body.split("</tr>")[:-1]]


@pytest.mark.slow
def test_the_front_is_drawn_through_the_trials_that_no_other_betters(
    result: dict[str, Any], page: str
) -> None:
    ended = {
        one["trial"]: (one["figures"]["train_seconds"], one["figures"]["validation_loss"])
        for one in result["tried"]
        if one["state"] == "finished"
    }
    assert len(ended) >= 3
    best = [
        trial
        for trial, (x, y) in ended.items()
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in ended.values())
    ]
    assert sorted(one["trial"] for one in result["pareto"]) == sorted(best)
    drawn = tuning_content(result)["trade_off"]
    assert (drawn["across"], drawn["up"]) == ("train seconds", "validation loss")
    dots = [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)h0", drawn["points"])]
    assert len(dots) == len(ended)
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in dots)
    place = dict(zip(ended, dots, strict=True))
    assert drawn["front"] == sorted(place[trial] for trial in best), "from the fastest on"
    heights = [y for _, y in drawn["front"]]
    assert heights == sorted(heights), "what takes longer loses less, which is further down"
    assert drawn["marked"] == [place[0]], "the recipe as it is"
    assert drawn["points"] in page
    assert page.count('<circle class="mark"') == len(best)


@pytest.mark.slow
def test_tables_name_the_front_what_mattered_and_all_trials(result: dict[str, Any], page: str) -> None:
    front = rows(page, "trade-off")
    assert [int(row.split()[0]) for row in front] == [one["trial"] for one in result["pareto"]]
    assert all(" met " in row for row in front)
    tried = rows(page, "tried")
    assert len(tried) == result["trials"]
    assert tried[0].startswith("0 its end")
    assert tried[0].endswith("nothing the recipe as it is")
    for one, row in zip(result["tried"], tried, strict=True):
        assert all(key in row for key in one["changes"])
    shares = rows(page, "importance")
    listed = [name for name, share in result["importances"].items() if share >= 0.005]
    assert ["".join(row.split()[:-2]) for row in shares] == listed
    assert listed[0] == "train.learning_rate"
    best = shown("validation_loss", result["best"]["metrics"]["validation_loss"])
    assert f"Validation loss {best} (" in words(page)
