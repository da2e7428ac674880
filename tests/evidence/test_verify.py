"""Verify on real arms: planted effects are found, and what cannot be measured is said in one line."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fulldeck.cli.verify import said
from fulldeck.errors import BadInput, RunFailed
from fulldeck.evidence.claim import Claim
from fulldeck.evidence.contributions import contributions
from fulldeck.evidence.measured import outcomes
from fulldeck.evidence.measurement import Seeds, budget_seconds
from fulldeck.evidence.peers import accelerate
from fulldeck.evidence.store import keep, kept
from fulldeck.evidence.verify import arms_of, verify

RECIPE = """
workload: breast_cancer
train: {epochs: 3, threads: 1, device: cpu}
instructions:
"""


def recipe(folder: Path, *instructions: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(RECIPE + "".join(f"  - {one}\n" for one in instructions))
    return path


@pytest.mark.slow
def test_a_planted_delay_is_found(planted: None, tmp_path: Path) -> None:
    told: list[str] = []
    made = recipe(tmp_path, "planted_delay: {milliseconds: 8}")
    result = verify("planted_delay", recipe=made, quick=True, tell=told.append)
    assert result["metric"] == "step_time"
    assert result["ratio"] > 1.3
    assert result["interval"][0] > 1.1
    # A busy machine may keep it from concluding, and then it must say so.
    assert result["verdict"] == "hurts" or "too noisy" in result["reason"]
    assert result["claim_holds"] is False
    assert len(result["samples"]["step_time"]["baseline"]) == result["rounds"] == 15
    assert result["treatment"] > result["baseline"] + 5
    assert any("round 15" in words for words in told)


def test_outcomes_over_shared_seeds(tmp_path: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    result = verify("weight_averaging", recipe=recipe(tmp_path, "weight_averaging"), quick=True)
    assert result["metric"] == "validation_loss"
    assert result["rounds"] == 3
    samples = result["samples"]["validation_loss"]
    assert len(samples["baseline"]) == len(samples["treatment"]) == 3
    assert samples["baseline"] != samples["treatment"]
    assert result["verdict"] in ("helps", "no difference", "hurts", "inconclusive")
    assert {"machine", "time", "schema", "recipe"} <= set(result)


def test_the_baseline_is_the_recipe_without_it_or_the_treatment_with_it(tmp_path: Path) -> None:
    made = recipe(tmp_path, "weight_averaging: {kind: swa}", "lr_scheduler")
    instruction, baseline, treatment = arms_of("weight_averaging", made)
    assert instruction.parameters() == {"kind": "swa"}
    assert [entry.instruction.card.name for entry in baseline.entries] == ["lr_scheduler"]
    assert len(treatment.entries) == 2
    _, baseline, treatment = arms_of("early_stopping", made)
    assert len(baseline.entries) == 2
    assert len(treatment.entries) == 3


def test_a_failing_arm_shows_its_last_lines_and_its_log(planted: None, tmp_path: Path) -> None:
    with pytest.raises(
        RunFailed, match=r"the arm treatment failed: ZeroDivisionError: planted.*\(log: .*log.txt\)"
    ):
        verify("planted_failure", recipe=recipe(tmp_path), quick=True)


def test_a_metric_that_nobody_records_is_named() -> None:
    told = {arm: [{"accuracy": 0.9, "loss": 0.1}] for arm in ("baseline", "treatment")}
    with pytest.raises(BadInput, match='the metric "nonsense" is not recorded; there are accuracy, loss'):
        outcomes("nonsense", Claim.parse(">= 1.0"), Seeds([0], told))


def test_one_seed_is_certain_of_nothing(tmp_path: Path) -> None:
    told = {"treatment": [{"loss": 0.1}], "baseline": [{"loss": 0.2}]}
    found = outcomes("loss", Claim.parse("<= 0.9x"), Seeds([0], told, ended="the budget ended"))
    assert (found.verdict, found.reason) == (
        "inconclusive",
        "one seed cannot tell, the budget ended; about 5 would",
    )
    alone = outcomes(
        "share", Claim.parse(">= 0.9"), Seeds([0], {"treatment": [{"share": 0.99}], "baseline": [{}]})
    )
    assert alone.verdict == "inconclusive"
    result = found.to_json() | {"name": "one", "workload": "digits"}
    path = keep(result, tmp_path)
    assert json.loads(path.read_text())["interval"] == [None, None], "JSON has no infinity"
    ((_, read),) = kept(tmp_path)
    assert read["interval"] == [-math.inf, math.inf]
    assert said(read) == "loss 0.500x (too few for an interval), 1 seeds; claimed <= 0.9x: open"


@pytest.mark.slow
def test_arms_that_diverge_allow_no_verdict_on_speed(planted: None, tmp_path: Path) -> None:
    made = recipe(tmp_path, "planted_divergence")
    made.write_text(made.read_text().replace("epochs: 3", "epochs: 60, learning_rate: 0.01"))
    result = verify("planted_divergence", recipe=made, quick=True)
    assert result["verdict"] == "inconclusive"
    assert "the arms diverge" in result["reason"]


def test_a_budget_too_small_says_how_many_rounds_would_do(planted: None, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the budget was spent before step_time could be measured once"):
        verify("planted_delay", recipe=recipe(tmp_path), budget=0.5)


@pytest.mark.slow
def test_a_budget_that_ends_before_a_look_decides_nothing(planted: None, tmp_path: Path) -> None:
    made = recipe(tmp_path, "planted_delay: {milliseconds: 2000}")
    result = verify("planted_delay", recipe=made, budget=40)
    assert result["rounds"] < 15
    assert result["verdict"] == "inconclusive"
    assert "the budget ended after" in result["reason"]
    assert "rounds would decide" in result["reason"]


def test_a_peer_that_is_unknown_or_does_not_fit(tmp_path: Path) -> None:
    made = recipe(tmp_path, "amp_optimizer: {dtype: bfloat16}")
    with pytest.raises(BadInput, match='unknown peer "acelerate"; did you mean accelerate'):
        verify("amp_optimizer", against="acelerate", recipe=made)
    with pytest.raises(BadInput, match="peers are only timed in training"):
        verify("weight_averaging", against="pytorch")


def test_a_peer_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(accelerate, "MODULE", "a_library_that_is_not_there")
    made = recipe(tmp_path, "amp_optimizer: {dtype: bfloat16}")
    with pytest.raises(BadInput, match="the peer accelerate is not installed: pip install accelerate"):
        verify("amp_optimizer", against="accelerate", recipe=made)


def test_a_baseline_that_fails(planted: None, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"the arm baseline failed: ZeroDivisionError: planted.*log.txt"):
        verify("planted_delay", recipe=recipe(tmp_path, "planted_failure"), quick=True)


def test_a_device_that_is_not_here_is_refused(tmp_path: Path) -> None:
    made = recipe(tmp_path, "amp_optimizer")
    made.write_text(made.read_text().replace("device: cpu", "device: mps"))
    with pytest.raises(BadInput, match='device "mps" is not here'):
        verify("amp_optimizer", recipe=made)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("2h", 7200)])
def test_budgets(text: str, seconds: float) -> None:
    assert budget_seconds(text) == seconds


@pytest.mark.parametrize("text", ["soon", "-5m", "0", "m"])
def test_no_budgets(text: str) -> None:
    with pytest.raises(BadInput, match="a budget is a time such as"):
        budget_seconds(text)


@pytest.mark.slow
def test_contributions_leave_out_one_and_two(tmp_path: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    made = recipe(tmp_path, "lr_scheduler", "weight_averaging", "onnx_export", "model_packaging")
    made.write_text(made.read_text().replace("epochs: 3", "epochs: 2"))
    result = contributions(made, quick=True)
    assert [one["label"] for one in result["instructions"]] == [
        "lr_scheduler",
        "weight_averaging",
        "onnx_export",
    ]
    assert [pair["labels"] for pair in result["pairs"]] == [
        ["lr_scheduler", "weight_averaging"],
        ["lr_scheduler", "onnx_export"],
        ["weight_averaging", "onnx_export"],
    ]
    export = result["instructions"][2]
    assert export["accuracy"]["estimate"] == 0
    assert export["verdict"] == "no difference"


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured_and_marks_it(planted: None, tmp_path: Path) -> None:
    made = recipe(tmp_path, "planted_delay: {milliseconds: 30}")
    words = [sys.executable, "-m", "fulldeck", "verify", "planted_delay", "--recipe", str(made), "--json"]
    process = subprocess.Popen(
        [*words, "--out", str(tmp_path / "evidence")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    # The first look is at 15 rounds; by then an arm has left its folder for a while.
    limit = time.monotonic() + 60
    while not list(tmp_path.glob("fulldeck-verify-*/steps/treatment/runs/*/plan.json")):
        assert time.monotonic() < limit
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    said = json.loads(output)
    if "verdict" in said:  # at least one round was done
        assert said["status"] == "interrupted"
        (file,) = (tmp_path / "evidence").glob("*.json")
        assert json.loads(file.read_text())["status"] == "interrupted"
