"""What is searched: levers of the figure that is aimed at, or what the recipe lists."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fulldeck.errors import BadInput
from fulldeck.pipeline.run import situation
from fulldeck.recipe.reader import read_recipe
from fulldeck.tuning.space import Space, search_space


def space(objective: str, recipe: str | Path = "digits") -> Space:
    read = read_recipe(recipe)
    return search_space(read, situation(read), objective)


def keys(found: Space) -> set[str]:
    return {choice.key for choice in found.choices}


def test_levers_follow_from_what_evidence_says() -> None:
    accurate, fast = keys(space("accuracy")), keys(space("latency_p99_ms"))
    assert {"lr_scheduler", "lr_scheduler.kind", "weight_averaging.decay", "train.learning_rate"} <= accurate
    assert {"post_training_quantization", "post_training_quantization.mode"} <= fast
    assert not any(key.startswith(("train.", "lr_scheduler")) for key in fast), (
        "a schedule makes nothing faster"
    )
    assert not {"leakage_safe_splitting", "model_packaging"} & (accurate | fast), (
        "they decide on what is judged"
    )


def test_the_recipes_own_decisions_build_the_recipe() -> None:
    found = space("accuracy")
    assert found.build(found.given).resolved() == found.recipe.resolved()


def test_a_parameter_is_a_choice_of_its_instruction_only() -> None:
    found = space("accuracy")
    without = found.build({**found.given, "weight_averaging": False})
    assert "weight_averaging" not in [entry.instruction.card.name for entry in without.entries]
    other = found.build({**found.given, "lr_scheduler.kind": "one_cycle", "train.batch_size": 128})
    assert other.train.batch_size == 128
    assert any(getattr(entry.instruction, "kind", "") == "one_cycle" for entry in other.entries)


def test_what_no_training_depends_on() -> None:
    found = space("latency_p99_ms")
    assert "post_training_quantization.mode" in found.after_training
    assert "quantization_aware_training.bit_width" not in found.after_training


def test_search_narrows(write: Callable[..., Path]) -> None:
    more = (
        "search:\n  weight_averaging: true\n  train.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}\n"
        "  weight_averaging.kind: true\n  train.batch_size: [16, 32]\n"
    )
    found = space("accuracy", write(more=more))
    assert keys(found) == {
        "weight_averaging",
        "weight_averaging.kind",
        "train.learning_rate",
        "train.batch_size",
    }
    assert found.given["train.learning_rate"] == 0.002
    assert found.given["weight_averaging"] is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "there is nothing to search"),
        ("{weight_avraging: true}", "did you mean weight_averaging"),
        ("{weight_averaging.dcay: [1]}", 'no parameter "dcay"; did you mean decay'),
        ("{weight_averaging: 3}", "true means that it may be used or not"),
        ("{train.batch_size: []}", "takes a list of values"),
        ("{train.learning_rate: {low: 1, high: 0.1}}", "from a smaller number to a larger one"),
        ("{train.learning_rate: {low: a, high: b}}", "goes from a number to a number"),
        ("[a]", "search must be a mapping"),
    ],
)
def test_a_search_that_means_nothing_is_refused(write: Callable[..., Path], text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        space("accuracy", write(more=f"search: {text}\n"))
