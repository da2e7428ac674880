"""Schedule, average and mixed precision in one training."""

import pytest
import torch
from torch import nn

from fulldeck.instructions.training.amp_optimizer import OVERFLOW, AmpOptimizer
from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.instructions.training.weight_averaging import WeightAveraging
from fulldeck.training.loop import TrainingLoop
from tests.interruption import interrupt


def shuffled():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(96, 3, 6, 6, generator=generator)
    dataset = torch.utils.data.TensorDataset(inputs, (inputs.mean((1, 2, 3)) > 0).long())
    return torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=True)


def training(*instructions, folder=None, overflow_at=(), **settings):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(128, 2)
    )
    loop = TrainingLoop(
        net,
        shuffled(),
        nn.functional.cross_entropy,
        instructions=instructions,
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
        epochs=3,
        validation=shuffled(),
        device="cpu",
        checkpoints=folder,
        checkpoint_every=4 if folder else None,
        **settings,
    )

    def overflow(part):
        if loop.step in overflow_at:
            part.terms.append(part.outputs.float().sum() * 1e6)

    loop.on("after_forward", overflow)
    return loop


def test_a_skipped_step_advances_neither_schedule_nor_average():
    loop = training(AmpOptimizer(dtype="float16"), LrScheduler(), WeightAveraging(), overflow_at={3, 9})
    loop.fit()
    assert loop.skipped == {OVERFLOW: 2}
    assert loop.updates == 16
    assert loop.states["lr_scheduler"].schedulers[0].last_epoch == 16
    assert loop.states["weight_averaging"].count == 16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["ema", "swa", "lawa"])
def test_resume_is_bit_exact(dtype, kind, tmp_path):
    def built(folder):
        instructions = (
            AmpOptimizer(dtype=dtype, growth_interval=4),
            LrScheduler(kind="one_cycle"),
            WeightAveraging(kind=kind, start=0.2),
        )
        overflow = {2, 6, 14} if dtype == "float16" else ()
        return training(*instructions, folder=folder, overflow_at=overflow)

    whole = built(None)
    expected = whole.fit().state_dict()
    interrupt(built(tmp_path), 11)
    resumed = built(tmp_path)
    state = resumed.fit(resume=True).state_dict()
    assert all(torch.equal(expected[name], state[name]) for name in expected)
    assert resumed.history == whole.history
    assert resumed.skipped == whole.skipped
    assert resumed.reported == whole.reported
