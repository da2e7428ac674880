"""Means over tokens: exact over ragged batches, and as a loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fulldeck.training.loop import TrainingLoop
from fulldeck.training.token_mean import IGNORED, TokenMean, score
from fulldeck.workload import foreseen, surprise

LOGITS = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([[0, 1, 2, 3]] * 3 + [[4, IGNORED, IGNORED, IGNORED]] * 3)


def test_the_loss_is_that_of_pytorch() -> None:
    expected = nn.functional.cross_entropy(LOGITS.flatten(0, 1), TARGETS.flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(TokenMean(surprise)(LOGITS, TARGETS), expected)


def test_no_tokens_give_zero_and_not_nan() -> None:
    assert TokenMean(surprise)(LOGITS, torch.full_like(TARGETS, IGNORED)) == 0


def test_batches_of_any_size_add_up_to_the_whole() -> None:
    figures = {"accuracy": TokenMean(foreseen), "perplexity": TokenMean(surprise, torch.exp)}
    whole = score([(LOGITS, TARGETS)], figures)
    ragged = score([(LOGITS[:4], TARGETS[:4]), (LOGITS[4:], TARGETS[4:])], figures)
    assert ragged == pytest.approx(whole)
    assert whole["perplexity"] == pytest.approx(math.exp(float(TokenMean(surprise)(LOGITS, TARGETS))))


def test_other_figures_get_all_outputs() -> None:
    batches = [(torch.ones(2, 1), torch.zeros(2)), (torch.ones(1, 1), torch.zeros(1))]
    assert score(batches, {"rows": lambda outputs, targets: len(outputs)}) == {"rows": 3.0}


@pytest.mark.parametrize("micro_batch", [None, 1, 4])
def test_micro_batches_with_different_numbers_of_tokens_give_the_same_step(micro_batch: int | None) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 5)
    loop = TrainingLoop(
        model,
        [(LOGITS, TARGETS)],
        TokenMean(surprise),
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        micro_batch=micro_batch,
        device="cpu",
    )
    trained = loop.fit()
    torch.manual_seed(0)
    plain = nn.Linear(5, 5)
    TokenMean(surprise)(plain(LOGITS), TARGETS).backward()
    assert plain.weight.grad is not None
    torch.testing.assert_close(trained.weight, plain.weight.detach() - plain.weight.grad)
