"""`fulldeck explain`: plain words on what a run will do, need and leave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fulldeck.preview.estimate import estimate
from fulldeck.preview.explanation import FILES
from fulldeck.recipe.reader import read_recipe

Cli = Callable[..., Any]

RECIPE = """\
workload: breast_cancer
train: {epochs: 2, threads: 1}
instructions:
  - onnx_export
  - leakage_safe_splitting
  - auto_data_augmentation: {optional: true}
"""


def test_what_it_does_needs_and_leaves(cli: Cli, recipe: Callable[[str], Path]) -> None:
    shown = " ".join(cli("explain", recipe(RECIPE)).out.split())
    for text in (
        "Breast cancer: 569 rows of 30 numbers",
        "2 classes: benign 357, malignant 212",
        "with the data, before a model exists: 15 leakage_safe_splitting: Split data so that",
        "use when: always, before anything is fitted.",
        "while training, 2 epochs in batches of",
        "skipped: works on image data",
        "32 onnx_export: Export the model to one ONNX file",
        "an estimate:",
        "real steps on cpu",
        "memory: ",
        "disk: about ",
        "artifacts/: the model in other forms",
    ):
        assert text in shown
    assert "package/" not in shown, "no instruction writes one"


def test_without_steps_nothing_is_read(cli: Cli, recipe: Callable[[str], Path], tmp_path: Path) -> None:
    path = recipe("workload: {kind: table, path: not-there.csv, target: y}\ninstructions: [onnx_export]\n")
    answer = cli("explain", path, "--no-steps")
    assert answer.code == 0
    assert "not measured (--no-steps)" in answer.out
    refused = cli("explain", path)
    assert refused.code == 2
    assert "not-there.csv does not exist" in refused.err
    assert not (tmp_path / "runs").exists()


def test_json_has_the_plan_and_every_figure(cli: Cli, recipe: Callable[[str], Path]) -> None:
    path = recipe(RECIPE)
    said = cli("explain", path, "--json").json
    assert said["steps"][0]["name"] == "leakage_safe_splitting"
    assert said["steps"][0]["title"]
    assert set(said["estimate"]) >= set(estimate(read_recipe(path)).to_json()) | {"disk_bytes"}
    assert cli("explain", path, "--json", "--no-steps").json["estimate"] is None


def test_a_run_leaves_what_is_said(finished: Path) -> None:
    there = {path.name + "/" * path.is_dir() for path in finished.iterdir() if path.name[0] != "."}
    assert set(FILES) - there - {"report.html"} == {"example.png"}, "of images; a table's example is a row"


def test_it_fits_a_narrow_terminal(
    cli: Cli, recipe: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = cli("explain", recipe(RECIPE)).out.splitlines()
    assert max(map(len, shown)) <= 40
