"""Run by test_extensions.py: what 53 and 54 do in two processes, past the plan, which refuses them there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fulldeck.data import Examples
from fulldeck.distributed.spread_training import SpreadTraining
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.instruction import Instruction
from fulldeck.instructions.extensions.dp_training import DpTraining
from fulldeck.instructions.extensions.model_fingerprinting import ModelFingerprinting
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop
from tests.distributed.parity_process import KINDS, network, rows
from tests.distributed.two_ranks import in_two, meeting

EXTENSIONS: dict[str, type[Instruction]] = {"private": DpTraining, "marked": ModelFingerprinting}


def ended(extension: Instruction, spread: SpreadTraining) -> dict[str, Any]:
    """The weights that this rank ends with, or the error."""
    torch.manual_seed(0)
    train: Examples = rows().train
    loop = TrainingLoop(
        network(),
        BatchLoader(train, TensorEncoder((8,)), 16, ShuffledSampler(len(train), seed=0)),
        nn.functional.cross_entropy,
        epochs=2,
        device="cpu",
    )
    try:
        for one in (extension, spread):
            loop.attach(one, one.card.name)
        model = loop.fit()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"weights": {name: tensor.tolist() for name, tensor in model.state_dict().items()}}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    found = {}
    for name, extension in EXTENSIONS.items():
        for kind, spread in KINDS.items():
            place = meeting(folder / f"{name}-{kind}")
            settings = {"init_method": place.init_method, "timeout_seconds": place.timeout_seconds}
            found[f"{name}, {kind}"] = in_two(
                lambda rank, e=extension, s=spread, settings=settings: ended(e(), s(**settings)),
                folder / f"{name}-{kind}",
            )
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
