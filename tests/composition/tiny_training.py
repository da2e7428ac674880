"""A training of milliseconds in which every instruction has something to do, and each with what it needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fulldeck.catalogue import built_in
from fulldeck.data import Data, Examples
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.instruction import Instruction
from fulldeck.ownership.key import Key
from fulldeck.training.batch import Part
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop

ENTRIES = {entry.name: entry for entry in built_in() if "attach" in entry.doors}
"""All that touch training: a new one joins by itself."""

FOLDER = tempfile.TemporaryDirectory()
"""Of files that parameters name."""
OWNER = Path(FOLDER.name, "owner.key")
Key(bytes(32)).write(OWNER)

PARAMETERS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "dynamic_batch_scheduler": ({}, {"effective_batch": 12}),
    "lr_scheduler": (
        {"min_lr_ratio": 0.1},
        {"kind": "one_cycle", "groups": [["head", 2.0]]},
        {"kind": "plateau", "patience": 0, "unit": "epoch"},
        {"range_test": True},
        {"kind": "constant"},
    ),
    "auto_data_augmentation": (
        {"magnitude": 0.3},
        {"separate_statistics": True, "attack": "pgd", "policy": "trivial"},
        {"mix": "mixup", "attack": "none", "magnitude": 0.3},
        {"policy": "trivial", "attack": "none", "magnitude": 0.3},
    ),
    "weight_averaging": ({"decay": 0.8}, {"kind": "swa", "start": 0.3}, {"kind": "lawa", "every": 2}),
    "amp_optimizer": (
        {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "keep_fp32": ["head"]},
        {"dtype": "float16"},
    ),
    "optimizer_selection": ({}, {"kind": "schedule_free"}, {"kind": "lion"}, {"kind": "adamw_8bit"}),
    # Not compiled to machine code: what it composes with is the tracing, and that is done.
    "train_step_compilation": (
        {"backend": "eager", "measure": False, "compile_after": 2},
        {"backend": "aot_eager", "measure": False, "region": "blocks"},
    ),
    "gradient_checkpointing": ({}, {"keep": "products", "every": 2}, {"budget": "1TiB"}),
    "fully_sharded_training": ({}, {"reshard": "never"}),
    "fault_tolerant_checkpointing": ({"every_steps": 2}, {"asynchronous": False, "keep_best": 1}),
    "knowledge_distillation": (
        {"teacher": "tests.composition.tiny_training:teacher"},
        {
            "teacher": "tests.composition.tiny_training:teacher",
            "weights": [0.5, 0.0, 0.5],
            "temperature": 2.0,
        },
    ),
    "parameter_efficient_finetuning": (
        {"rank": 2, "dropout": 0.1},
        {"kind": "dora", "rank": 2},
        {"kind": "ia3"},
    ),
    # With a key of its own every training would bear another mark.
    "model_fingerprinting": ({"key": str(OWNER)},),
    # So little noise that the loss falls, and as much as epsilon 8 asks for; drawn from a seed, to be compared.
    "dp_training": (
        {"mode": "functional", "group_norm": True, "noise_seed": 0, "epsilon": None, "noise_multiplier": 0.1},
        {"mode": "functional", "group_norm": True, "noise_seed": 0, "epsilon": 8.0},
    ),
}
"""Parameters that an instruction is tried with where its defaults do nothing here, or may not stand beside others."""

ROWS, BATCH, EPOCHS = 42, 16, 3


def made(name: str, variant: int = 0) -> Instruction:
    """The instruction with its parameters here."""
    return ENTRIES[name].load()(**variants(name)[variant])


def allowed(one: str, other: str) -> list[tuple[Instruction, Instruction]]:
    """The two with all their parameters with which they may stand side by side."""
    choices = product(range(len(variants(one))), range(len(variants(other))))
    pairs = [(made(one, first), made(other, second)) for first, second in choices]
    return [(a, b) for a, b in pairs if not a.clash(b) and not b.clash(a)]


def variants(name: str) -> tuple[dict[str, Any], ...]:
    """All parameters that it is tried with."""
    return PARAMETERS.get(name, ({},))


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(16, 16), nn.LayerNorm(16), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.norm(self.linear(x)).relu())


class Network(nn.Module):
    """Convolution, batch-norm, repeated blocks, dropout and a head: N x 1 x 6 x 6 to N x 3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.into, self.blocks = nn.Linear(64, 16), nn.Sequential(Block(), Block())
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.blocks(self.into(self.stem(x))))
        return result


def network() -> Network:
    """Always the same weights."""
    torch.manual_seed(0)
    return Network()


def teacher() -> Network:
    """Another of the kind, in evaluation mode."""
    torch.manual_seed(1)
    return Network().eval()


def data() -> Data:
    """Images whose bright third is the class."""
    random = np.random.default_rng(0)
    targets = np.arange(ROWS) % 3
    images = random.random((ROWS, 1, 6, 6), dtype=np.float32) * 0.6
    for image, target in zip(images, targets, strict=True):
        image[:, 2 * target : 2 * target + 2] += 0.4
    rows = Examples(images, targets)
    return Data(
        "thirds", "image", "classification", rows, rows, rows, ("0", "1", "2"), TensorEncoder((1, 6, 6))
    )


def memory_runs_out(loop: TrainingLoop) -> None:
    """From the second step on, with more than 10 samples at once."""

    def full(part: Part) -> None:
        if loop.updates and len(part.targets) > 10:
            raise MemoryError

    loop.on("after_forward", full)


def a_batch_is_bad(loop: TrainingLoop) -> None:
    """One gradient is not finite."""

    def spoil(part: Part) -> None:
        if loop.step == 2:
            part.terms.append(part.outputs.float().sum() * torch.inf)

    loop.on("after_forward", spoil)


CIRCUMSTANCES: Mapping[str, Callable[[TrainingLoop], None]] = {
    "dynamic_batch_scheduler": memory_runs_out,
    "gradient_stabilization": a_batch_is_bad,
}
"""What has to happen for an instruction to do more than look on."""


def training(*instructions: Instruction, folder: Path | None = None, **settings: Any) -> TrainingLoop:
    """A loop over `data()`, with the circumstances of its instructions; checkpoints go to `folder`."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    given = data()
    assert given.encoder is not None
    assert given.validation is not None
    loop = TrainingLoop(
        network(),
        BatchLoader(given.train, given.encoder, BATCH, ShuffledSampler(ROWS, seed=0)),
        nn.functional.cross_entropy,
        instructions=instructions,
        epochs=EPOCHS,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
        validation=BatchLoader(given.validation, given.encoder, ROWS),
        device="cpu",
        data=given,
        checkpoints=folder,
        checkpoint_every=2 if folder is not None else None,
        **settings,
    )
    for instruction in instructions:
        if (happens := CIRCUMSTANCES.get(instruction.card.name)) is not None:
            happens(loop)
    return loop
