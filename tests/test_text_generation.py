"""What a model writes: the likeliest, or drawn by seed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fulldeck.encoders.tokens import TokenEncoder
from fulldeck.text_generation import draw, generate, likeliest

ENCODER = TokenEncoder(4)


class NextLetter(nn.Module):
    """Sure that the next byte is the next letter, and a little that it is an exclamation mark."""

    def forward(self, input: Tensor) -> Tensor:
        logits = torch.zeros(*input.shape, 256)
        logits.scatter_(2, (input + 1).clamp(max=255)[..., None], 20.0)
        logits[..., ord("!")] = 18.0
        return logits


def test_the_likeliest_text_goes_on_beyond_the_length_of_the_model() -> None:
    assert generate(NextLetter(), ENCODER, "abc", 9, temperature=0) == "defghijkl"


def test_the_seed_decides_what_is_drawn() -> None:
    texts = [generate(NextLetter(), ENCODER, "abc", 12, temperature=2.0, seed=seed) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_only_the_top_k_are_drawn() -> None:
    random = np.random.default_rng(0)
    logits = np.array([0.0, 1.0, 0.9, -1.0])
    drawn = {draw(logits, temperature=10.0, top_k=2, random=random) for _ in range(50)}
    assert drawn == {1, 2}


def test_the_likeliest_tokens_are_listed_with_their_share() -> None:
    logits = np.full(256, -30.0)
    logits[[97, 98]] = [1.0, 0.0]
    first, second = likeliest(ENCODER, logits)[:2]
    assert (first["token"], first["id"], second["token"]) == ("a", 97, "b")
    assert abs(first["probability"] + second["probability"] - 1) < 1e-6
