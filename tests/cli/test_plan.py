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


def test_for_a_machine_that_is_not_here(cli: Cli, recipe: Callable[[str], Path]) -> None:
    path = recipe("workload: digits\ntrain: {threads: 1}\ninstructions: [amp_optimizer, weight_averaging]\n")
    found = cli("plan", path, "--hardware", "nvidia-a100", "--json").json["hardware"]
    assert (found["profile"], found["device"], found["fits"]) == ("nvidia-a100", "cuda", True)
    assert found["taken"] == {"amp_optimizer.dtype": "bfloat16"}
    weights = found["memory"]["weights"]
    assert found["memory"]["optimizer_state"] == pytest.approx(2 * weights, rel=0.01)
    assert found["memory"]["kept"] == pytest.approx(weights, rel=0.01), "the average"
    text = cli("plan", path, "--hardware", "nvidia-a100").out
    assert "the training fits into its 84.8 GB" in " ".join(text.split())


def test_what_the_recipe_says_goes_before_the_profile(cli: Cli, recipe: Callable[[str], Path]) -> None:
    path = recipe(
        "workload: digits\nhardware: nvidia-t4\ninstructions:\n  - amp_optimizer: {dtype: bfloat16}\n"
    )
    found = cli("plan", path, "--json").json
    assert found["hardware"]["taken"] == {}
    assert {"amp_optimizer": {"dtype": "bfloat16"}} in found["recipe"]["instructions"]


def test_too_little_memory_there(cli: Cli, recipe: Callable[[str], Path], tmp_path: Path) -> None:
    own = tmp_path / "small.toml"
    own.write_text('title = "Small"\ndevice = "cpu"\nsource = "made up"\nmemory_gib = 0.001\n')
    path = recipe("workload: digits\nhardware: small.toml\n")
    assert "does not fit into its 1.1 MB" in " ".join(cli("plan", path).out.split())


def test_a_profile_for_another_machine_is_not_run_here(cli: Cli) -> None:
    result = cli("run", "digits", "--set", "hardware=nvidia-a100")
    assert result.code == 2
    assert result.err.strip() == (
        'error: device "cuda" is not here; there is only cpu, and hardware: nvidia-a100 wants it; '
        "run it there, or here with --set hardware=auto"
    )
