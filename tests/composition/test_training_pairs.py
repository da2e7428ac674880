"""Every two instructions that may train together do so, whichever way the recipe lists them.

The loss falls (but for the noise of privacy), a training that was interrupted ends with the same bits, and what is
handed over is the plain model. The plan keeps the rules of the two; where there is none, both orders come to the same
bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fulldeck.instruction import Instruction, Situation
from fulldeck.instructions.extensions.dp_training import DpTraining, with_group_norm
from fulldeck.planner import make_plan
from fulldeck.recipe.recipe import make_recipe
from fulldeck.training.loop import TrainingLoop
from tests.composition.tiny_training import ENTRIES, allowed, network, training
from tests.interruption import interrupt

PAIRS = [
    pair
    for pair in combinations(ENTRIES, 2)
    if not any(other in ENTRIES[one].conflicts for one, other in (pair, pair[::-1]))
]
IDS = ["-".join(pair) for pair in PAIRS]
QUICK = [
    # What also converts captures the whole model as a graph in every training.
    pytest.param(*pair, marks=[pytest.mark.slow] * any(ENTRIES[name].stage == "inference" for name in pair))
    for pair in PAIRS
]
# Of a GPU, or the plan would refuse float16, which is slow on a CPU and trains there all the same.
SITUATION = Situation("image", "classification", "cuda")
INTERRUPTED = 5
"""The step that a training is interrupted at: in an epoch, and one after a checkpoint."""


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.compiler.reset()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("one", "other"), QUICK, ids=IDS)
def test_a_pair(one: str, other: str, tmp_path: Path) -> None:
    both = allowed(one, other)
    assert both, "give it parameters with which it may stand beside the other"
    check(*both[0], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), PAIRS, ids=IDS)
def test_a_pair_with_other_parameters(one: str, other: str, tmp_path: Path) -> None:
    for number, (a, b) in enumerate(allowed(one, other)[1:]):
        torch.compiler.reset()
        try:
            check(a, b, tmp_path / str(number))
        except AssertionError as failure:
            failure.add_note(f"with {a} and {b}")
            raise


def check(one: Instruction, other: Instruction, folder: Path) -> None:
    """All that is promised of a pair."""
    plans = [planned(one, other), planned(other, one)]
    if goes_before(one, other) or goes_before(other, one):
        assert plans[0] == plans[1]
        first, then = plans[0]
        assert not goes_before(then, first), f"{then.card.name} must go before {first.card.name}"
        plans.pop()
    else:
        assert plans[0] == plans[1][::-1]
    expected = trained(plans[0], folder)
    for plan in plans[1:]:
        end = training(*plan, folder=folder / "reversed").fit().state_dict()
        assert same(end, expected), "the order makes a difference, and no rule says which it is"


def planned(*instructions: Instruction) -> list[Instruction]:
    return list(make_plan(make_recipe("digits", instructions), SITUATION).acting.values())


def goes_before(one: Instruction, other: Instruction) -> bool:
    """Whether a rule of one of them says so."""

    def traits(instruction: Instruction) -> set[str]:
        card = instruction.card
        return {card.name, f"stage:{card.stage}", *(f"touches:{word}" for word in card.touches)}

    (_, before), (after, _) = one.order(), other.order()
    return bool(before.keys() & traits(other) or after.keys() & traits(one))


def trained(instructions: list[Instruction], folder: Path) -> dict[str, Tensor]:
    """The weights that both the whole and the interrupted training end with."""
    whole = training(*instructions, folder=folder / "whole")
    handed_over = whole.fit()
    expected = handed_over.state_dict()
    if not any(drowned(instruction) for instruction in instructions):
        assert whole.history[-1]["loss"] < whole.history[0]["loss"]
    if not any(converts(instruction) for instruction in instructions):
        plain(handed_over, group_norm=any(getattr(one, "group_norm", False) for one in instructions))
    assert loss_of(handed_over) == pytest.approx(told_loss(whole), rel=1e-3)

    interrupt(training(*instructions, folder=folder / "interrupted"), INTERRUPTED)
    resumed = training(*instructions, folder=folder / "interrupted")
    assert same(resumed.fit(resume=True).state_dict(), expected)
    assert resumed.history == whole.history
    assert resumed.skipped == whole.skipped
    assert resumed.notes == whole.notes
    return expected


def converts(instruction: Instruction) -> bool:
    """Whether it trains for another door, which makes another model of what it leaves."""
    return "dtype" in instruction.card.touches and "optimise" in instruction.doors()


def drowned(instruction: Instruction) -> bool:
    """Whether it adds so much noise to so few samples that nothing is learnt: as much as epsilon asks for."""
    return isinstance(instruction, DpTraining) and instruction.epsilon is not None


def plain(model: nn.Module, *, group_norm: bool) -> None:
    """What is handed over is the model as it came, in float32, without a trace of an instruction.

    But for batch norms where group norms were asked for.
    """
    as_it_came = network()
    if group_norm:
        with_group_norm(as_it_came)
    assert {name: (type(m), m.training) for name, m in model.named_modules()} == {
        name: (type(m), False) for name, m in as_it_came.named_modules()
    }
    for module in model.modules():
        assert "forward" not in vars(module)
        assert module._compiled_call_impl is None
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    for name, parameter in as_it_came.named_parameters():
        other = model.get_parameter(name)
        assert (other.shape, other.dtype, other.requires_grad) == (parameter.shape, torch.float32, True)


def told_loss(loop: TrainingLoop) -> float:
    """What the run says that the loss of the model handed over is: the last one who says it had the last word."""
    told = [
        changes["validation_loss"]["after"]
        for changes in loop.reported.values()
        if "validation_loss" in changes
    ]
    return told[-1] if told else loop.history[-1]["validation_loss"]


@torch.no_grad()
def loss_of(model: nn.Module) -> float:
    validation = training().validation
    assert validation is not None
    ((inputs, targets),) = validation.batches(0)
    return float(nn.functional.cross_entropy(model(inputs), targets))


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
