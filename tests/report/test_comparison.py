"""Runs side by side."""

import json
from pathlib import Path

import pytest

from fulldeck.errors import BadInput
from fulldeck.report import write_comparison
from fulldeck.report.comparison import compare
from tests.report.run_folders import HOSTILE, RECIPE, classification, plan, result, write_run


def test_only_what_differs_of_the_recipes_and_every_figure(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one")
    better = result(metrics={"test": {"accuracy": 0.99}})
    other = write_run(tmp_path / "two", recipe=RECIPE.replace("epochs: 3", "epochs: 9"), result=better)
    comparison = compare([one, other])
    assert [(row.name, list(row.values)) for row in comparison.recipe] == [("train.epochs", [3, 9])]
    figures = {row.name: row for row in comparison.figures}
    assert figures["test_accuracy"].best == {1}
    assert figures["validation_accuracy"].values == [0.98, None]
    assert figures["model_size_bytes"].best == frozenset()
    assert comparison.warnings == []
    assert len(comparison.panels) == 4
    json.dumps(comparison.to_json(), default=str)


def test_instructions_of_one_run_only_and_their_order(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", plan=plan("lr_scheduler", "onnx_export"))
    other = write_run(tmp_path / "two", plan=plan("onnx_export", "lr_scheduler", "weight_averaging"))
    rows = {row.name: list(row.texts) for row in compare([one, other]).recipe}
    assert rows == {
        "weight_averaging": ["–", "true"],
        "order": ["lr_scheduler, onnx_export", "onnx_export, lr_scheduler"],
    }


def test_what_makes_runs_not_comparable_is_told(tmp_path: Path) -> None:
    machine = result()["machine"] | {"cores": 64, "versions": {"torch": "2.14.0"}}
    one = write_run(tmp_path / "one")
    other = write_run(
        tmp_path / "two",
        recipe=RECIPE.replace("digits", "{kind: images, path: cats}"),
        result=result(machine=machine),
        evaluation=classification(("cat", "dog")),
    )
    failed = write_run(tmp_path / "three", result=result(status="failed"))
    (failed / "plan.json").unlink()
    comparison = compare([one, other, failed])
    said = "\n".join(comparison.warnings)
    for words in (
        "different workloads, so metrics cannot be compared: A digits, B images cats, C digits",
        "judged on different data (numbers of examples): A 30, B 20, C 30",
        "different cores, so times cannot be compared: A 2, B 64, C 2",
        "different versions of torch: A 2.13.0+cpu, B 2.14.0, C 2.13.0+cpu",
        "C is failed",
        "C has no whole plan.json",
    ):
        assert words in said
    assert not any(row.best for row in comparison.figures), "no winner among different workloads"


def test_a_target_that_is_given_or_inferred_is_the_same_workload(tmp_path: Path) -> None:
    recipe = RECIPE.replace("digits", "{kind: table, path: people.csv%s}")
    judged = classification() | {"fingerprint": "00000000deadbeef"}
    one = write_run(tmp_path / "one", recipe=recipe % "", evaluation=judged)
    other = write_run(tmp_path / "two", recipe=recipe % ", target: bought", evaluation=judged)
    assert compare([one, other]).warnings == []
    elsewhere = judged | {"fingerprint": "00000000cafecafe"}
    third = write_run(tmp_path / "three", recipe=recipe % ", target: sex", evaluation=elsewhere)
    first, *_ = compare([other, third]).warnings
    assert first == "different workloads, so metrics cannot be compared: target A bought, B sex"


def test_times_that_differ_by_chance_have_no_best(tmp_path: Path) -> None:
    folders = []
    for name, seconds, p50 in (("one", 10.0, 1.0), ("two", 11.0, 2.0)):
        rehearsal = {"requests": 100, "agreement": 1.0, "latency_ms": {"p50": p50, "p99": 10 * p50}}
        changed = result(seconds={"train": seconds}, rehearsal=rehearsal)
        folders.append(write_run(tmp_path / name, result=changed))
    figures = {row.name: row.best for row in compare(folders).figures}
    assert figures["training_seconds"] == figures["server_latency_p99_ms"] == frozenset()
    assert figures["server_latency_p50_ms"] == {0}


def test_too_few_and_the_same_are_refused(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one")
    (tmp_path / "latest").symlink_to("one")
    with pytest.raises(BadInput, match="2 to 26 runs, got 1"):
        compare([one])
    with pytest.raises(BadInput, match="are the same run"):
        compare([one, tmp_path / "latest"])


def test_the_page_escapes_what_runs_hold(tmp_path: Path) -> None:
    evil = result(recipe=HOSTILE, metrics={"test": {HOSTILE: 0.5}})
    folders = [write_run(tmp_path / name, result=evil) for name in ("one", "two")]
    write_comparison(compare(folders), tmp_path / "compare.html")
    assert "<script>alert" not in (tmp_path / "compare.html").read_text()
