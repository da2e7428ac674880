"""Planted bottlenecks are found, and what fits is ranked first or named as missing."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from fulldeck.diagnosis.diagnose import diagnose
from fulldeck.errors import RunFailed
from fulldeck.recipe.recipe import make_recipe
from tests.diagnosis.planted_workloads import PLANTS, Planted


@cache
def found(plant: str) -> dict[str, Any]:
    train = {"threads": 1, "batch_size": PLANTS[plant].batch_size}
    return diagnose(make_recipe(Planted(plant=plant), train=train))


@pytest.mark.parametrize(
    ("plant", "limit", "advised"),
    [
        ("slow_loader", "data", "prefetching"),
        ("elementwise", "memory", "train_step_compilation"),
        ("tiny_kernels", "launch", "train_step_compilation"),
        ("embedding_table", "optimizer", "sparse"),
        ("products", "compute", "amp_optimizer"),
    ],
)
def test_the_bottleneck_is_named_and_what_is_done_about_it(plant: str, limit: str, advised: str) -> None:
    result = found(plant)
    bottleneck = result["bottleneck"]
    assert bottleneck["class"] == limit, result["step"]
    assert bottleneck["clear"]
    assert f"{bottleneck['share']:.0%}" in bottleneck["sentence"]
    names = [item["name"] for item in result["advice"]]
    if advised == "amp_optimizer" and advised not in names:
        # A processor may list bfloat16 among its instructions and be slower with them; then it says so.
        assert "bfloat16 is no way out here" in bottleneck["sentence"]
        assert "narrower types" in bottleneck["missing"]
    elif bottleneck["missing"] is None:
        assert advised in names[:2]
        assert 0 < result["advice"][0]["predicted"] < 1
    else:
        assert advised in bottleneck["missing"]


def test_padding_is_a_finding_beside_the_bottleneck() -> None:
    (padding,) = found("padding")["beside"]
    assert padding["class"] == "padding"
    assert padding["share"] == pytest.approx(56 / 64)
    assert "packing" in padding["missing"]
    assert found("padding")["pipeline"]["padding_in_batch"] == pytest.approx(0.0)
    assert found("embedding_table")["beside"] == []


@pytest.mark.parametrize(
    "plant", ["slow_loader", "elementwise", "tiny_kernels", "embedding_table", "products"]
)
def test_shares_are_of_the_whole(plant: str) -> None:
    step = found(plant)["step"]
    assert sum(step["phases"].values()) == pytest.approx(1.0)
    assert sum(step["bounds"].values()) == pytest.approx(1.0)
    assert sum(one["share"] for one in found(plant)["operators"]) <= 1.0


def test_work_of_operators_and_memory_by_kind() -> None:
    result = found("products")
    product = next(one for one in result["operators"] if one["name"] == "aten::addmm")
    assert product["flops"] == product["calls"] * 2 * 256 * 768 * 768
    assert product["bytes"] == product["calls"] * 4 * (768 + 256 * 768 + 768 * 768 + 256 * 768)
    assert product["bound"] == "compute"
    weights = 4 * (2 * (768 * 768 + 768) + 768 * 2 + 2)
    memory = result["memory"]
    assert memory["weights"] == memory["gradients"] == weights
    assert memory["optimizer_state"] >= 2 * weights
    assert memory["activations"] >= 4 * 3 * 256 * 768, "inputs of the layers"
    assert memory["peak"] < memory["limit"]
    assert found("embedding_table")["memory"]["weights"] > 50_000 * 64 * 4


def test_a_recipe_that_fails_in_its_first_step_is_told_in_one_line() -> None:
    with pytest.raises(RunFailed, match=r"^step 1 of the training failed: ZeroDivisionError: planted$"):
        found("broken")


def test_a_loss_that_is_not_finite() -> None:
    with pytest.raises(RunFailed, match="the loss is not finite"):
        found("nan")
