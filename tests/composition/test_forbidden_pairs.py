"""Every two instructions that a plan refuses to train together, with a test that shows what they would do."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from types import MethodType

import pytest
import torch

from fulldeck.errors import BadInput
from fulldeck.instruction import Instruction
from fulldeck.instructions.training.gradient_checkpointing import recomputation
from tests.composition.tiny_training import ENTRIES, made, training, variants

TESTS = Path(__file__).parents[1]
SHOWN = {
    frozenset({"dynamic_batch_scheduler", "gradient_checkpointing"}): (
        "instructions/training/test_dynamic_batch_scheduler.py",
        "check_blocks_chosen_for_one_micro_batch_do_not_fit_another",
    ),
    frozenset({"lr_scheduler", "optimizer_selection"}): (
        "instructions/training/test_optimizer_selection.py",
        "test_why_a_falling_rate_and_schedule_free_exclude_each_other",
    ),
    frozenset({"weight_averaging", "optimizer_selection"}): (
        "instructions/training/test_optimizer_selection.py",
        "test_why_averaging_and_schedule_free_exclude_each_other",
    ),
    frozenset({"gradient_checkpointing", "quantization_aware_training"}): (
        "composition/test_forbidden_pairs.py",
        "test_a_graph_recomputes_its_roundings_and_no_block",
    ),
    frozenset({"parameter_efficient_finetuning", "quantization_aware_training"}): (
        "composition/test_forbidden_pairs.py",
        "test_a_graph_keeps_its_adapters",
    ),
    frozenset({"amp_optimizer", "quantization_aware_training"}): (
        "composition/test_forbidden_pairs.py",
        "test_a_graph_has_no_module_to_keep_in_float32",
    ),
    frozenset({"auto_data_augmentation", "quantization_aware_training"}): (
        "composition/test_forbidden_pairs.py",
        "test_a_graph_has_one_set_of_batch_statistics",
    ),
    **{
        frozenset({"dp_training", other}): ("composition/test_beside_privacy.py", name)
        for other, name in {
            "amp_optimizer": "test_a_scaled_loss_is_not_what_is_clipped",
            "auto_data_augmentation": "test_a_sample_that_is_mixed_moves_two_gradients",
            "dynamic_batch_scheduler": "test_parts_of_a_batch_are_not_those_of_its_scheduler",
            "gradient_checkpointing": "test_what_computes_twice_has_no_gradient_a_sample",
            "lr_scheduler": "test_a_range_test_looks_more_often_than_the_accountant_counts",
            "knowledge_distillation": "test_a_teacher_is_not_heard",
            "quantization_aware_training": "test_ranges_of_rounding_tell_of_one_sample",
            "train_step_compilation": "test_a_compiled_step_has_no_gradient_a_sample",
        }.items()
    },
}
"""The file and the function that shows it, for each pair."""
ON_ONE_DEVICE = {name for pair in SHOWN for name in pair} | {
    "early_stopping",
    "gradient_stabilization",
    "train_step_compilation",
}


def forbidden() -> set[frozenset[str]]:
    """The pairs of which some parameters are refused."""
    return {frozenset(pair) for pair in combinations(sorted(ON_ONE_DEVICE), 2) if refused(*pair)}


def refused(one: str, other: str) -> bool:
    choices = product(range(len(variants(one))), range(len(variants(other))))
    instructions = [(made(one, first), made(other, second)) for first, second in choices]
    return any(a.clash(b) or b.clash(a) for a, b in instructions)


def test_each_is_shown() -> None:
    assert forbidden() == set(SHOWN)


@pytest.mark.parametrize(("file", "name"), SHOWN.values(), ids=["-".join(sorted(pair)) for pair in SHOWN])
def test_what_shows_it_is_there(file: str, name: str) -> None:
    assert f"def {name}(" in (TESTS / file).read_text()


# The model becomes a graph of operators in the middle of the training -------------------------------------

QUANTISED = "quantization_aware_training"


def beside(name: str, **parameters: object) -> list[Instruction]:
    """The instruction and one that makes a graph of the model, past the plan, which refuses them."""
    return [ENTRIES[name].load()(**parameters), made(QUANTISED)]


@pytest.mark.slow
def test_a_graph_recomputes_its_roundings_and_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = recomputation.checkpoint
    recomputed: dict[bool, set[str]] = {False: set(), True: set()}
    loop = training(*beside("gradient_checkpointing"))

    def noted(forward: MethodType, *inputs: object, **named: object) -> object:
        recomputed[loop.step > loop.total_steps // 2].add(type(forward.__self__).__name__)
        return checkpoint(forward, *inputs, **named)

    monkeypatch.setattr(recomputation, "checkpoint", noted)
    loop.fit()
    assert "Block" in recomputed[False]
    assert recomputed[True]
    assert "Block" not in recomputed[True]


@pytest.mark.slow
def test_a_graph_keeps_its_adapters() -> None:
    handed_over = training(*beside("parameter_efficient_finetuning", rank=2)).fit()
    assert [name for name in handed_over.state_dict() if "lora" in name]


@pytest.mark.slow
def test_a_graph_has_no_module_to_keep_in_float32() -> None:
    loop = training(*beside("amp_optimizer", dtype="bfloat16", keep_fp32=["head"]))
    with pytest.raises(BadInput, match='no module matches "head"'):
        loop.fit()
    assert loop.step == loop.total_steps // 2


@pytest.mark.slow
def test_a_graph_has_one_set_of_batch_statistics() -> None:
    loop = training(*beside("auto_data_augmentation", magnitude=0.3, separate_statistics=True))
    means: list[torch.Tensor] = []
    loop.on("step_end", lambda batch: means.append(loop.companions.state_dict()[mean].clone()))
    (mean,) = (name for name in loop.companions.state_dict() if name.endswith("running_mean"))
    loop.fit()
    half = loop.total_steps // 2
    assert not torch.equal(means[0], means[half - 1])
    assert torch.equal(means[half], means[-1])
