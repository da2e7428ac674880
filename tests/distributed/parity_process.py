"""Run by test_parity.py: each case is trained by one process, and by two with the same batches."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fulldeck.data import Data, Examples
from fulldeck.distributed.spread_training import SpreadTraining
from fulldeck.encoders.image import ImageEncoder
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.instruction import Instruction, Situation
from fulldeck.instructions.data.auto_data_augmentation import AutoDataAugmentation
from fulldeck.instructions.training.distributed_data_parallel import DistributedDataParallel
from fulldeck.instructions.training.dynamic_batch_scheduler import DynamicBatchScheduler
from fulldeck.instructions.training.early_stopping import EarlyStopping
from fulldeck.instructions.training.fault_tolerant_checkpointing import FaultTolerantCheckpointing
from fulldeck.instructions.training.fully_sharded_training import FullyShardedTraining
from fulldeck.instructions.training.gradient_checkpointing import GradientCheckpointing
from fulldeck.instructions.training.gradient_stabilization import GradientStabilization
from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.instructions.training.optimizer_selection import OptimizerSelection
from fulldeck.instructions.training.parameter_efficient_finetuning import ParameterEfficientFinetuning
from fulldeck.instructions.training.weight_averaging import WeightAveraging
from fulldeck.planner import make_plan
from fulldeck.recipe.recipe import make_recipe
from fulldeck.training.batch import Part
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop
from fulldeck.training.token_mean import IGNORED, TokenMean
from fulldeck.workload import accuracy, foreseen, surprise
from tests.distributed.two_ranks import in_two, meeting

ROWS, BATCH = 49, 16
"""The last batch has one row, so that one of two ranks has none."""


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.linear(x)).relu()


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.Sequential(Block(16), Block(16)), nn.Linear(16, 3))


def rows() -> Data:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(ROWS, 8)).astype(np.float32)
    targets = inputs[:, :3].argmax(1)
    train = Examples(inputs, targets)
    validation = train.take(np.arange(0, ROWS, 2))
    return Data(
        "rows", "tensor", "classification", train, validation, None, ("0", "1", "2"), TensorEncoder((8,))
    )


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 16), nn.Linear(16, 11)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x).cumsum(1).tanh())


def tokens() -> Data:
    """Rows in which between none and nine of ten tokens count."""
    random = np.random.default_rng(0)
    ids = random.integers(0, 11, (ROWS, 10))
    targets = np.roll(ids, -1, axis=1)
    targets[np.arange(10)[None] >= random.integers(0, 10, ROWS)[:, None]] = IGNORED
    targets[0] = ids[0]
    both = Examples(ids, targets)
    return Data("ids", "tokens", "language_modelling", both, both, None, (), TensorEncoder((10,), "int64"))


def images() -> Data:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (ROWS, 3, 8, 8)).astype(np.uint8)
    targets = pictures.reshape(ROWS, 3, -1).mean(axis=2).argmax(1)
    both = Examples(pictures, targets)
    encoder = ImageEncoder(3, 8, 8)
    return Data("images", "image", "classification", both, both, None, ("0", "1", "2"), encoder)


def convolutions() -> nn.Module:
    hidden = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU())
    return nn.Sequential(hidden, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))


def batch_norms() -> nn.Module:
    hidden = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1))
    return nn.Sequential(hidden, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))


@dataclass(frozen=True)
class Case:
    """A training: its instructions, and what else it is made of."""

    instructions: tuple[Instruction, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Callable[[], Data] = rows
    network: Callable[[], nn.Module] = network
    loss: Any = nn.functional.cross_entropy
    metrics: Mapping[str, Any] = field(default_factory=lambda: {"accuracy": accuracy})
    epochs: int = 3
    rate: float = 0.01
    replicas: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of 22."""
    shards: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of 26."""
    like_one: bool = True
    """Whether one process comes to the same; else only the ranks do."""
    out_of_memory: bool = False
    """On the last rank, from the second step on, with more than 3 rows at once."""


CASES: Mapping[str, Case] = {
    "plain": Case(),
    "parts": Case(settings={"micro_batch": 3}),
    "tokens": Case(
        data=tokens,
        network=Tokens,
        loss=TokenMean(surprise),
        metrics={"accuracy": TokenMean(foreseen), "perplexity": TokenMean(surprise, torch.exp)},
        settings={"micro_batch": 5},
    ),
    "clipping and skipping": Case(
        (GradientStabilization(limit=0.05, spike_factor=1.05, quantile=0.5),), epochs=9, rate=0.05
    ),
    "early stopping of an average": Case(
        (WeightAveraging(decay=0.9), EarlyStopping(patience=1)), epochs=30, rate=0.3
    ),
    "plateau": Case((LrScheduler(kind="plateau", patience=0),), epochs=8, rate=0.3),
    "memory that runs out on one rank": Case((DynamicBatchScheduler(),), out_of_memory=True),
    "augmentation": Case(
        (AutoDataAugmentation(attack="none", flip=True),), data=images, network=convolutions
    ),
    "restarts of an average": Case(
        (WeightAveraging(kind="swa", start=0.5), EarlyStopping(patience=9)), epochs=6
    ),
    "recomputed blocks": Case((GradientCheckpointing(),)),
    "adapters": Case((ParameterEfficientFinetuning(),)),
    "lion": Case((OptimizerSelection(kind="lion"),)),
    "batch statistics": Case(data=images, network=batch_norms, like_one=False),
    "every parameter": Case(
        replicas={"gradient_predivide_factor": 1.5, "bucket_mb": 0.001, "static_graph": True},
        shards={"blocks": ("Block",), "reshard": "never"},
    ),
    "exchanged after each part, and let go": Case(
        settings={"micro_batch": 3},
        replicas={"exchange": "every", "find_unused_parameters": True},
        shards={"reshard": "always"},
    ),
    "sixteen bits": Case(replicas={"compression": "bfloat16"}, shards={"dtype": "bfloat16"}, like_one=False),
    "float16": Case(replicas={"compression": "float16"}, like_one=False),
    "time": Case((LrScheduler(unit="time", seconds=0.5),), epochs=10_000, like_one=False),
    "range test": Case((LrScheduler(range_test=True),)),
}


KINDS: Mapping[str, type[SpreadTraining]] = {
    "replicas": DistributedDataParallel,
    "shards": FullyShardedTraining,
}


def training(case: Case, kind: str | None, folder: Path, **settings: Any) -> TrainingLoop:
    torch.manual_seed(0)
    data = case.data()
    assert data.encoder is not None
    assert data.validation is not None
    loop = TrainingLoop(
        case.network(),
        BatchLoader(data.train, data.encoder, BATCH, ShuffledSampler(len(data.train), seed=0)),
        case.loss,
        epochs=case.epochs,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=case.rate),
        validation=BatchLoader(data.validation, data.encoder, 9),
        metrics=case.metrics,
        device="cpu",
        data=data,
        **case.settings,
        **settings,
    )
    spread = []
    if kind is not None:
        place = meeting(folder)
        chosen = case.replicas if kind == "replicas" else case.shards
        spread = [KINDS[kind](init_method=place.init_method, timeout_seconds=place.timeout_seconds, **chosen)]
    for one in planned(data.kind, *case.instructions, *spread):
        loop.attach(one, one.card.name)
    if case.out_of_memory:

        def full(part: Part) -> None:
            if loop.updates and len(part.targets) > 3 and loop.ranks.rank == loop.ranks.world_size - 1:
                raise MemoryError

        loop.on("after_forward", full)
    return loop


def planned(kind: str, *instructions: Instruction) -> list[Instruction]:
    """In the order of a plan."""
    situation = Situation(kind, "classification", "cpu")
    return list(make_plan(make_recipe("digits", instructions), situation).acting.values())


def found(case: Case, kind: str | None, folder: Path) -> dict[str, Any]:
    """What a training comes to."""
    loop = training(case, kind, folder)
    losses: list[float] = []
    loop.on("step_end", lambda batch: losses.append(float(loop.last_loss.detach())))  # type: ignore[union-attr]
    model = loop.fit()
    return {
        "losses": losses,
        "history": loop.history,
        "weights": {name: tensor.tolist() for name, tensor in model.state_dict().items()},
        "stopped": loop.stopped,
        "skipped": loop.skipped,
        "epochs": loop.epoch,
        "steps": loop.step,
        "rate": loop.learning_rate(),
        "reported": loop.reported,
        "notes": [note for note in loop.notes if "wait for it" not in note],  # told by the clock
    }


KEPT = Case(
    (
        WeightAveraging(decay=0.9),
        EarlyStopping(patience=9),
        GradientStabilization(limit=0.5),
        FaultTolerantCheckpointing(),
    )
)
"""A training that is kept, to be gone on with in another way."""


def begun(kind: str | None, place: Path) -> None:
    """All epochs but the last one."""
    training(replace(KEPT, epochs=KEPT.epochs - 1), kind, place, checkpoints=place / "kept").fit()


def ended(kind: str | None, place: Path) -> dict[str, Any]:
    """The weights after the last epoch."""
    loop = training(KEPT, kind, place, checkpoints=place / "kept")
    model = loop.fit(resume=True)
    return {
        "steps": loop.step,
        "weights": {name: tensor.tolist() for name, tensor in model.state_dict().items()},
    }


def changed_over(folder: Path) -> dict[str, Any]:
    """What two ranks begin and end, in every way that they can."""
    found = {}
    for kind in KINDS:
        found[f"alone, {kind}"] = ended(kind, folder / f"alone-{kind}")
        begun(kind, folder / f"{kind}-alone")
        for other in KINDS:
            place = folder / f"{kind}-{other}"
            begun(kind, place)
            found[f"{kind}, {other}"] = ended(other, place)
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    for first, second in product(("alone", *KINDS), repeat=2):
        (folder / f"{first}-{second}").mkdir()
    for kind in KINDS:
        begun(None, folder / f"alone-{kind}")
    alone = {name: found(case, None, folder) for name, case in CASES.items() if case.like_one}
    both = in_two(
        lambda rank: {kind: in_kind(kind, folder) for kind in KINDS} | {"over": changed_over(folder)},
        folder / "both",
    )
    over = both[0]["over"] | {f"{kind}, alone": ended(None, folder / f"{kind}-alone") for kind in KINDS}
    alone["kept"] = found(replace(KEPT, instructions=KEPT.instructions[:-1]), None, folder)
    (folder / "found.json").write_text(json.dumps({"alone": alone, "ranks": both, "over": over}))


def in_kind(kind: str, folder: Path) -> dict[str, Any]:
    return {name: found(case, kind, folder) for name, case in CASES.items() if goes_with(case, kind)}


def goes_with(case: Case, kind: str) -> bool:
    """Whether a plan may have both."""
    return not any(KINDS[kind]().clash(one) for one in case.instructions)


if __name__ == "__main__":
    main()
