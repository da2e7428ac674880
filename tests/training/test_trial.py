"""Steps that are tried leave no trace."""

from contextlib import suppress

import pytest
import torch
from torch import nn

from fulldeck.errors import BadInput
from fulldeck.training.loop import TrainingLoop
from fulldeck.training.trial import trial

INPUTS = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS[:, 0] > 0).long()


def training(loader=None):
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(INPUTS, TARGETS)
    return TrainingLoop(
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2)),
        torch.utils.data.DataLoader(data, batch_size=8, shuffle=True) if loader is None else loader,
        nn.functional.cross_entropy,
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.05),
        epochs=3,
        device="cpu",
    )


def tried(loop, steps, losses):
    def try_first():
        if loop.step == 0:
            with trial(loop) as step:
                losses.extend(step() for _ in range(steps))

    loop.on("epoch_start", try_first)
    return loop


def test_a_training_after_a_trial_is_that_without_one():
    plain, losses = training(), []
    expected = plain.fit().state_dict()
    loop = tried(training(), 30, losses)
    state = loop.fit().state_dict()
    assert all(torch.equal(expected[name], state[name]) for name in expected)
    assert loop.history == plain.history
    assert loop.step == loop.updates == 12
    assert losses[-1] < losses[0]


def test_also_where_it_failed():
    expected = training().fit().state_dict()
    loop = training()

    def fail():
        if loop.step == 0:
            with suppress(KeyError), trial(loop) as step:
                step()
                raise KeyError

    loop.on("epoch_start", fail)
    state = loop.fit().state_dict()
    assert all(torch.equal(expected[name], state[name]) for name in expected)


def test_batches_that_can_be_read_once_are_refused():
    with pytest.raises(BadInput, match="can be read once only"):
        tried(training(iter([(INPUTS, TARGETS)])), 1, []).fit()
