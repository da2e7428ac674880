"""What a language model writes: token after token, drawn from its outputs. Imports no torch by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from fulldeck.encoders.tokens import TokenEncoder

if TYPE_CHECKING:
    from torch import nn

Array = npt.NDArray[Any]
Run = Callable[[dict[str, Array]], Array]
"""Encoded inputs by name to N x T x V logits, as `Candidate.run`."""
LISTED = 10
"""How many of the likeliest tokens an answer lists."""


def generate(
    model: nn.Module | Run,
    encoder: TokenEncoder,
    prompt: str = "",
    tokens: int = 100,
    *,
    temperature: float = 0.8,
    top_k: int | None = 40,
    seed: int = 0,
) -> str:
    """What `model` writes after `prompt`, which is not repeated: at most `tokens` tokens.

    Each is drawn from the `top_k` likeliest (None: from all), with logits divided by `temperature`; at 0 it is
    the likeliest one. `model` gives logits for encoded inputs: a module, or `candidate.run`.
    """
    run = _runner(model)
    random = np.random.default_rng(seed)
    ids = encoder.parse(prompt).tolist()
    start = len(ids)
    for _ in range(tokens):
        window = ids[-encoder.length :]
        logits = run(encoder.encode(encoder.collect([window])))[0, len(window) - 1]
        ids.append(draw(logits, temperature=temperature, top_k=top_k, random=random))
    return encoder.text(ids[start:])


def fill_in(model: nn.Module | Run, encoder: TokenEncoder, text: str) -> str:
    """`text` with each mask replaced by the token that a masked model finds likeliest there."""
    ids = encoder.parse(text)
    logits = _runner(model)(encoder.encode(encoder.collect([ids])))[0]
    return filled(encoder, ids, logits)


def filled(encoder: TokenEncoder, ids: Array, logits: Array) -> str:
    """The text of `ids` with each mask replaced by the likeliest token of the T x V `logits` there."""
    at = places(encoder, ids)
    whole = ids.copy()
    whole[at] = logits[at].argmax(axis=-1)
    return encoder.text(whole)


def places(encoder: TokenEncoder, ids: Array) -> list[int]:
    """Where the model's outputs answer the prompt `ids`: at its masks, or after its last token."""
    masked: list[int] = np.flatnonzero(ids == encoder.mask).tolist()
    return [len(ids) - 1] if encoder.mask is None else masked


def draw(logits: Array, *, temperature: float, top_k: int | None, random: np.random.Generator) -> int:
    """One of the V tokens of `logits`, drawn; the likeliest at temperature 0."""
    if temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[:top_k]
    return int(random.choice(order, p=_softmax(logits[order] / temperature)))


def likeliest(encoder: TokenEncoder, logits: Array) -> list[dict[str, Any]]:
    """The LISTED likeliest tokens of V `logits`, with their text, id and probability."""
    shares = _softmax(logits)
    order: Sequence[int] = np.argsort(-logits, kind="stable")[:LISTED].tolist()
    return [{"token": encoder.text([one]), "id": one, "probability": float(shares[one])} for one in order]


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(), dtype=np.float64)
    result: Array = powers / powers.sum()
    return result


def _runner(model: nn.Module | Run) -> Run:
    if not hasattr(model, "state_dict"):
        return model
    from fulldeck.engines.pytorch import PyTorchEngine

    engine = PyTorchEngine(cast("nn.Module", model))
    return lambda inputs: engine.run(inputs)[engine.output]
