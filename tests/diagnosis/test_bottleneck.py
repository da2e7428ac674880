"""Which limit is named, from figures alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fulldeck.diagnosis.bottleneck import LIMITS, beside, bottleneck, split_by_bound
from fulldeck.diagnosis.ceilings import Ceilings
from fulldeck.diagnosis.findings import Bound, Findings, Memory, Operator, Pipeline
from fulldeck.training.step_clock import PHASES

MACHINE = Ceilings({"float32": 1e11}, 1e10, 1e-6)


def operator(seconds: float, bound: Bound, phase: str = "forward") -> Operator:
    return Operator("aten::some", phase, (), "float32", 1, seconds, 0, 0, bound)


def findings(peak: int = 1, recompiles: int = 0, **shares: float) -> Findings:
    phases = dict.fromkeys(PHASES, 0.0) | shares
    operators = (
        operator(0.3, "compute"),
        operator(0.1, "memory", "backward"),
        operator(9.0, "memory", "optimizer"),
    )
    return Findings(
        kind="training",
        device="cpu",
        step_seconds=1.0,
        phases=phases,
        bounds=split_by_bound(phases, operators, 1.0),
        operators=operators,
        ceilings=MACHINE,
        memory=Memory(1, 1, 1, 1, 1, peak, 100),
        pipeline=Pipeline(123.0),
        recompiles=recompiles,
    )


def test_forward_and_backward_divide_by_their_operators_and_the_rest_is_the_hosts() -> None:
    bounds = findings(forward=0.4, backward=0.4, data=0.2).bounds
    assert bounds["compute"] == pytest.approx(0.3)
    assert bounds["memory"] == pytest.approx(0.1)
    assert bounds["launch"] == pytest.approx(0.4)
    assert sum(bounds.values()) == pytest.approx(1.0)
    assert "forward" not in bounds


@pytest.mark.parametrize("phase", ["data", "transfer", "instructions", "optimizer", "communication"])
def test_a_phase_that_takes_most(phase: str) -> None:
    found = bottleneck(findings(forward=0.3, **{phase: 0.7}))
    assert (found["class"], found["clear"]) == (phase, True)
    assert found["sentence"].startswith(f"70% of a step is {LIMITS[phase].says}")
    assert ("123 batches/s" in found["sentence"]) == (phase == "data")


def test_full_memory_goes_before_everything_else() -> None:
    found = bottleneck(findings(peak=95, data=1.0))
    assert found["class"] == "capacity"
    assert "95%" in found["sentence"]


def test_none_is_clear() -> None:
    found = bottleneck(findings(data=0.35, optimizer=0.35, transfer=0.3))
    assert not found["clear"]
    assert found["sentence"].startswith("No single limit")


def test_recompilations_are_told() -> None:
    (found,) = beside(findings(recompiles=3, forward=1.0))
    assert "3 times" in found["sentence"]


@pytest.mark.parametrize("ratio", [0.5, 1.9])
def test_a_narrower_type_that_is_no_faster_here_is_told(ratio: float) -> None:
    product = replace(operator(0.9, "compute"), flops=1e9, in_bfloat16=ratio)
    given = replace(findings(forward=1.0), bounds={"compute": 0.9}, operators=(product,))
    said = "bfloat16 is no way out here, it takes 1.90x as long" in bottleneck(given)["sentence"]
    assert said == (ratio > 1)
