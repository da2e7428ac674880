"""What instructions predict follows from the figures; where figures say nothing, they are silent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fulldeck.catalogue import built_in
from fulldeck.diagnosis.advice import advise, unaddressed
from fulldeck.diagnosis.bottleneck import bottleneck
from fulldeck.diagnosis.ceilings import Ceilings
from fulldeck.diagnosis.findings import Findings, Layer, Memory, Operator
from fulldeck.instruction import Instruction
from fulldeck.recipe.recipe import make_recipe
from fulldeck.training.step_clock import PHASES

PRODUCT = Operator("aten::mm", "forward", ((4, 4),), "float32", 1, 0.6, 1e9, 1e6, "compute", in_bfloat16=0.5)
OTHER = Operator("aten::relu", "forward", ((4, 4),), "float32", 1, 0.4, 0.0, 1e6, "memory")
NOTHING = Findings(
    kind="training",
    device="cpu",
    step_seconds=1.0,
    phases=dict.fromkeys(PHASES, 0.0),
    bounds={"compute": 0.6, "memory": 0.4},
    operators=(OTHER,),
    ceilings=Ceilings({"float32": 1e11, "bfloat16": 2e11}, 1e10, 1e-6),
)


def instruction(name: str) -> type[Instruction]:
    return next(entry for entry in built_in() if entry.name == name).load()


@pytest.mark.parametrize("kind", ["training", "inference"])
@pytest.mark.parametrize("entry", built_in(), ids=lambda entry: entry.name)
def test_figures_that_say_nothing_are_answered_by_silence(entry, kind: str) -> None:  # type: ignore[no-untyped-def]
    assert entry.load().predict(replace(NOTHING, kind=kind)) is None


def test_narrower_products_shorten_their_share_of_the_step() -> None:
    predicted = instruction("amp_optimizer").predict(replace(NOTHING, operators=(PRODUCT, OTHER)))
    assert predicted is not None
    assert predicted.figure == "step_time"
    assert predicted.ratio == pytest.approx(1 - 0.6 * 0.5)
    assert "60%" in predicted.reason
    assert "0.50x" in predicted.reason


@pytest.mark.parametrize(
    "product",
    [
        replace(PRODUCT, dtype="bfloat16"),
        replace(PRODUCT, in_bfloat16=0.99),
        replace(PRODUCT, in_bfloat16=None),
    ],
)
def test_what_is_narrow_or_gains_nothing_is_not_narrowed(product: Operator) -> None:
    assert instruction("amp_optimizer").predict(replace(NOTHING, operators=(product, OTHER))) is None


def test_compiling_saves_half_of_starting_operators_and_of_moving_bytes_between_them() -> None:
    within = replace(OTHER, seconds=0.2, calls=3)
    given = replace(NOTHING, operators=(PRODUCT, within, replace(OTHER, phase="optimizer")))
    given = replace(given, bounds={"launch": 0.2, "memory": 0.2, "compute": 0.6})
    predicted = instruction("train_step_compilation").predict(given)
    assert predicted is not None
    assert predicted.ratio == pytest.approx(1 - 0.5 * (0.2 + 0.2))
    assert set(predicted.eases) == {"launch", "memory"}
    assert "starting operators is 20% of a step" in predicted.reason
    # With little to gain nothing is said.
    little = replace(given, operators=(PRODUCT,), bounds={"launch": 0.1, "compute": 0.9})
    assert instruction("train_step_compilation").predict(little) is None


def test_a_product_is_no_link_of_a_chain_though_its_name_has_add_in_it() -> None:
    product = replace(PRODUCT, name="aten::addmm")
    given = replace(NOTHING, kind="inference", chains=(("a", "b"),), operators=(product, OTHER))
    predicted = instruction("kernel_fusion").predict(given)
    assert predicted is not None
    assert "40% of a forward pass" in predicted.reason


def test_int8_takes_a_quarter_of_what_it_quantises() -> None:
    layers = (Layer("a", "Linear", 600, {"int8": 0.01, "bfloat16": 0.0}), Layer("b", "Embedding", 400, {}))
    found = replace(NOTHING, kind="inference", layers=layers, model_bytes=1000)
    predicted = instruction("post_training_quantization").predict(found)
    assert predicted is not None
    assert predicted.ratio == pytest.approx(1 - 0.75 * 0.6)
    assert "a, changes the outputs by 1.0%" in predicted.reason


@pytest.mark.parametrize(("launch", "ratio"), [(0.2, None), (0.6, 0.4), (1.0, 0.1)])
def test_an_export_does_without_launching_from_python(launch: float, ratio: float | None) -> None:
    found = replace(NOTHING, kind="inference", bounds={"launch": launch})
    predicted = instruction("onnx_export").predict(found)
    assert (predicted and predicted.ratio) == (ratio and pytest.approx(ratio))


def crammed(peak: float) -> Findings:
    """A training that has so much of its memory in use, 60 % of it activations."""
    memory = Memory(10, 10, 20, round(60 * peak), 1, peak=round(100 * peak), limit=100)
    phases = NOTHING.phases | {"forward": 0.3, "backward": 0.6}
    return replace(NOTHING, memory=memory, phases=phases)


def test_memory_that_is_full_is_eased_by_recomputing_and_by_parts_of_a_batch() -> None:
    found = crammed(0.95)
    assert bottleneck(found)["class"] == "capacity"
    advice = advise(found, make_recipe("digits"), "capacity")
    assert [item["name"] for item in advice] == ["gradient_checkpointing", "dynamic_batch_scheduler"]
    recomputed, in_parts = advice
    assert recomputed["predicted"] == pytest.approx(1 - 0.5 * 57 / 95)
    assert "30% longer" in recomputed["cost"]
    assert in_parts["predicted"] == pytest.approx(0.85 / 0.95)
    assert not unaddressed("capacity", advice)
    assert advise(crammed(0.89), make_recipe("digits"), "compute") == []


def test_parts_of_a_batch_do_not_shrink_what_is_there_without_samples() -> None:
    full = replace(NOTHING, memory=Memory(60, 10, 20, 4, 1, peak=95, limit=100))
    predicted = instruction("dynamic_batch_scheduler").predict(full)
    assert predicted is not None
    assert predicted.ratio == pytest.approx(90 / 95)
    without = replace(NOTHING, memory=Memory(60, 10, 25, 0, 0, peak=95, limit=100))
    assert instruction("dynamic_batch_scheduler").predict(without) is None
    assert instruction("gradient_checkpointing").predict(without) is None


def test_what_eases_the_bottleneck_comes_first_and_what_is_there_is_not_advised() -> None:
    layers = (Layer("a", "Linear", 1000, {}),)
    found = replace(NOTHING, kind="inference", layers=layers, model_bytes=1000, bounds={"launch": 0.5})
    advice = advise(found, make_recipe("digits"), "launch")
    assert [item["name"] for item in advice][:2] == ["onnx_export", "post_training_quantization"]
    assert not unaddressed("launch", advice)
    assert unaddressed("data", advice)
    there = make_recipe("digits", [instruction("onnx_export")()])
    assert [item["name"] for item in advise(found, there, "launch")] == ["post_training_quantization"]


def test_one_that_cannot_be_added_says_why_and_comes_last() -> None:
    layers = (Layer("a", "Linear", 1000, {}),)
    found = replace(NOTHING, kind="inference", layers=layers, model_bytes=1000, bounds={"launch": 0.5})
    post_training = instruction("post_training_quantization")()
    strict = make_recipe("digits", [post_training], order="strict")
    (item,) = advise(found, strict, "launch")
    assert item["name"] == "onnx_export"
    assert item["blocked"] is not None
    assert unaddressed("launch", [item])
