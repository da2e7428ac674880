"""`fulldeck plan`: order and reasons."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def test_the_order_with_reasons(cli: Cli, recipe: Callable[[str], Path]) -> None:
    path = recipe("workload: digits\ninstructions: [post_training_quantization, onnx_export]\n")
    lines = cli("plan", path).out.splitlines()
    assert lines[0].split() == ["no", "instruction", "when", "why", "here"]
    assert [line.split()[:3] for line in lines if line[:1].isdigit()] == [
        ["32", "onnx_export", "conversion"],
        ["28", "post_training_quantization", "conversion"],
    ]
    assert "waits for onnx_export: " in " ".join(lines), "it was written before it"
    steps = cli("plan", path, "--json").json["steps"]
    assert [step["name"] for step in steps] == ["onnx_export", "post_training_quantization"]
    assert all(step["reasons"] for step in steps)


def test_what_no_rule_orders_is_said_in_plain_words(cli: Cli, recipe: Callable[[str], Path]) -> None:
    path = recipe("workload: digits\ninstructions: [auto_data_augmentation]\n")
    *_, line = cli("plan", path).out.splitlines()
    why = "no rule orders it: kept in the recipe's order"
    assert line.split("  ") == ["12", "auto_data_augmentation", "training", why]


def test_what_is_optional_is_said_to_be_skipped(cli: Cli, recipe: Callable[[str], Path]) -> None:
    path = recipe("workload: breast_cancer\ninstructions:\n  - auto_data_augmentation: {optional: true}\n")
    assert "skipped: works on image data" in cli("plan", path).out


def test_the_shipped_recipe_can_be_planned(cli: Cli) -> None:
    assert cli("plan", "digits").code == 0


def test_a_users_factory_is_not_imported(
    cli: Cli, recipe: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_own.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = recipe("workload: {kind: python, factory: 'users_own:make'}\ninstructions: [onnx_export]\n")
    assert cli("plan", path).code == 0
