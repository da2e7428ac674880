"""What dp_training refuses to stand beside, and what would happen if it did: past the plan, which refuses the two."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from fulldeck.errors import CannotAct, RunFailed
from fulldeck.instruction import Instruction
from fulldeck.instructions.data.auto_data_augmentation import mix
from fulldeck.instructions.extensions.dp_training import DpTraining
from fulldeck.instructions.inference.quantization_aware_training import prepare_qat
from fulldeck.instructions.training.amp_optimizer import AmpOptimizer
from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.training.loop import TrainingLoop
from tests.composition.tiny_training import data, made, network, training


def private(**chosen: Any) -> Instruction:
    """With little noise, always the same."""
    settings = {"mode": "functional", "noise_seed": 0, "epsilon": None, "noise_multiplier": 0.1}
    return DpTraining(**{**settings, "group_norm": True, **chosen})


def images() -> torch.Tensor:
    return torch.from_numpy(data().train.inputs)  # type: ignore[arg-type]


def test_a_sample_that_is_mixed_moves_two_gradients() -> None:
    before, targets = images()[:8], torch.arange(8) % 3
    after = before.clone()
    after[0] = 1 - after[0]
    mixed = []
    for rows in (before, after):
        torch.manual_seed(0)
        mixed.append(mix(rows, targets, 3, "mixup")[0])
    assert int((mixed[0] != mixed[1]).flatten(1).any(1).sum()) == 2


def test_parts_of_a_batch_are_not_those_of_its_scheduler() -> None:
    def small(loop: TrainingLoop) -> TrainingLoop:
        def full(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            if module.training and len(inputs[0]) > 10:
                raise MemoryError

        loop.model.register_forward_pre_hook(full)
        return loop

    with pytest.raises(RunFailed, match="memory ran out with a single sample"):
        small(training(made("dynamic_batch_scheduler"), private(mode="ghost"))).fit()
    small(training(private(mode="ghost", micro_batch=8))).fit()


def test_a_teacher_is_not_heard() -> None:
    alone = training(private()).fit()
    taught = training(private(), made("knowledge_distillation")).fit()
    assert all(
        torch.equal(one, other) for one, other in zip(alone.parameters(), taught.parameters(), strict=True)
    )


def test_what_computes_twice_has_no_gradient_a_sample() -> None:
    with pytest.raises((CannotAct, RuntimeError), match="saved tensor hooks"):
        training(private(), made("gradient_checkpointing")).fit()


@pytest.mark.slow
def test_ranges_of_rounding_tell_of_one_sample() -> None:
    ranges = []
    for brightness in (1.0, 8.0):
        rows = images()[:16].clone()
        rows[0] *= brightness
        prepared = prepare_qat(network(), rows)
        ranges.append(
            {name: value for name, value in prepared.state_dict().items() if name.endswith("scale")}
        )
    assert any(not torch.equal(value, ranges[1][name]) for name, value in ranges[0].items())


def test_a_compiled_step_has_no_gradient_a_sample() -> None:
    torch.compiler.reset()
    with pytest.raises((AssertionError, RuntimeError)):
        training(private(), made("train_step_compilation")).fit()


def test_a_range_test_looks_more_often_than_the_accountant_counts() -> None:
    loop = training(private(), LrScheduler(range_test=True))
    loop.fit()
    ((chart,),) = (charts for charts in loop.drawn.values() if charts)
    assert len(chart["series"][0]["y"]) > loop.step


def test_a_scaled_loss_is_not_what_is_clipped() -> None:
    # Noise and gradients are made smaller by a scale that they were never multiplied with.
    alone, scaled = training(private()), training(AmpOptimizer(dtype="float16"), private())
    sizes = []
    for loop in (alone, scaled):
        largest: list[float] = []
        loop.on("before_step", partial(note, loop, largest))
        loop.fit()
        sizes.append(largest[0])
    assert sizes[1] < sizes[0] / 1000


def note(loop: TrainingLoop, largest: list[float], batch: object) -> None:
    """The largest value of a gradient."""
    largest.append(max(float(p.grad.abs().max()) for p in loop.model.parameters() if p.grad is not None))
