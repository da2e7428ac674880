"""25: a training that was ended anywhere goes on, and ends as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fulldeck.errors import BadInput, Terminated
from fulldeck.instructions.training.amp_optimizer import AmpOptimizer
from fulldeck.instructions.training.dynamic_batch_scheduler import DynamicBatchScheduler
from fulldeck.instructions.training.early_stopping import EarlyStopping
from fulldeck.instructions.training.fault_tolerant_checkpointing import (
    FaultTolerantCheckpointing,
    load_newest,
)
from fulldeck.instructions.training.gradient_stabilization import GradientStabilization
from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.instructions.training.weight_averaging import WeightAveraging
from fulldeck.integrations.borrowed_loop import BorrowedLoop
from fulldeck.training.loop import TrainingLoop

NOISE = torch.Generator().manual_seed(3)
INPUTS = torch.randn(60, 12, generator=NOISE)
TARGETS = (INPUTS[:, 0] > 0).long()


def training(
    *instructions: Any, folder: Path | None = None, epochs: int = 3, **settings: Any
) -> TrainingLoop:
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(INPUTS[:48], TARGETS[:48])
    return TrainingLoop(
        nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 2)),
        torch.utils.data.DataLoader(data, batch_size=8, shuffle=True),
        nn.functional.cross_entropy,
        instructions=instructions,
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.02),
        validation=[(INPUTS[48:], TARGETS[48:])],
        epochs=epochs,
        device="cpu",
        checkpoints=folder,
        **settings,
    )


class Killed(BaseException):
    pass


def killed_at(loop: TrainingLoop, step: int) -> None:
    def kill(batch: Any) -> None:
        if loop.step == step:
            raise Killed

    loop.on("batch_start", kill)
    with pytest.raises(Killed):
        loop.fit()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("step", [4, 7, 11, 17])
def test_from_any_step_it_ends_with_the_same_bits(tmp_path: Path, step: int) -> None:
    others = (
        DynamicBatchScheduler(),
        LrScheduler(warmup=0.1),
        AmpOptimizer(dtype="float16"),
        GradientStabilization(),
        WeightAveraging(decay=0.9),
        EarlyStopping(patience=50),
    )
    expected = training(*others)
    weights = expected.fit()
    kept = FaultTolerantCheckpointing(every_steps=2, every_seconds=None)
    killed_at(training(*others, kept, folder=tmp_path), step)
    again = training(*others, kept, folder=tmp_path)
    assert same(weights, again.fit(resume=True))
    assert again.history == expected.history
    assert again.reported["fault_tolerant_checkpointing"]["checkpoints"]["after"] >= 1
    assert not (tmp_path / "last.safetensors").exists()


def test_it_saves_after_so_many_steps_seconds_and_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(name: str, **parameters: Any) -> list[int]:
        loop = training(FaultTolerantCheckpointing(keep_last=99, **parameters), folder=tmp_path / name)
        loop.fit()
        return [int(folder.name.removeprefix("step-")) for folder in sorted((tmp_path / name).glob("step-*"))]

    assert saved("epochs", every_seconds=None) == [6, 12, 18]
    assert saved("rare", every_seconds=None, every_epochs=2) == [12, 18]  # the last one always
    assert saved("steps", every_seconds=None, every_epochs=None, every_steps=5) == [5, 10, 15, 18]
    ticking = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(ticking))
    assert len(saved("seconds", every_seconds=10, every_epochs=None)) in (2, 3)


def test_as_often_as_the_recipe_says_and_in_the_folder_of_the_run(tmp_path: Path) -> None:
    kept = FaultTolerantCheckpointing(keep_last=99, every_epochs=None, keep_best=1)
    training(kept, folder=tmp_path, checkpoint_every=4).fit()
    assert len(list(tmp_path.glob("step-*"))) == 5


def test_the_best_by_validation_stay(tmp_path: Path) -> None:
    loop = training(FaultTolerantCheckpointing(keep_last=1, keep_best=1), folder=tmp_path, epochs=6)
    loop.fit()
    losses = [epoch["validation_loss"] for epoch in loop.history]
    best = 6 * (losses.index(min(losses)) + 1)
    assert sorted(tmp_path.glob("step-*")) == sorted({tmp_path / f"step-{step:08d}" for step in (best, 36)})


def test_the_best_stays_also_where_the_last_step_of_an_epoch_is_kept_before_it_is_judged(
    tmp_path: Path,
) -> None:
    kept = FaultTolerantCheckpointing(keep_last=1, keep_best=1, every_steps=6)
    loop = training(kept, folder=tmp_path, epochs=6)
    loop.fit()
    losses = [epoch["validation_loss"] for epoch in loop.history]
    best = 6 * (losses.index(min(losses)) + 1)
    assert sorted(tmp_path.glob("step-*")) == sorted({tmp_path / f"step-{step:08d}" for step in (best, 36)})
    assert json.loads((tmp_path / f"step-{best:08d}" / "manifest.json").read_text())["content"]["metrics"]


def test_a_damaged_one_is_told_and_the_one_before_it_used(tmp_path: Path) -> None:
    kept = FaultTolerantCheckpointing(every_steps=2)
    expected = training().fit()
    killed_at(training(kept, folder=tmp_path), 9)
    os.truncate(tmp_path / "step-00000008" / "shard-0.safetensors", 1000)
    again = training(kept, folder=tmp_path)
    assert same(expected, again.fit(resume=True))
    assert "step-00000008 is damaged" in again.notes[0]
    assert again.notes[0].endswith("went on from step 6")


def test_one_of_another_model_is_refused_with_three_keys(tmp_path: Path) -> None:
    kept = FaultTolerantCheckpointing(folder=str(tmp_path))
    training(kept, epochs=1).fit()
    other = training(kept)
    other.model = nn.Sequential(nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 2))
    with pytest.raises(BadInput, match=r"of another model; these keys differ: 1\.bias, 1\.weight, 2\.bias$"):
        other.fit(resume=True)


def test_an_earlier_training_is_not_gone_on_with_unasked(tmp_path: Path) -> None:
    place = str(tmp_path / "kept")
    whole = training(FaultTolerantCheckpointing(folder=place)).fit()
    with pytest.raises(
        BadInput, match=r"kept holds checkpoints of an earlier training, up to step 18; go on with it"
    ):
        training(FaultTolerantCheckpointing(folder=place)).fit()
    autoresume = FaultTolerantCheckpointing(folder=place, autoresume=True)
    assert same(whole, training(autoresume).fit())
    longer = training(autoresume, epochs=4)
    longer.fit()
    assert longer.step == 24


def test_in_an_object_store(tmp_path: Path) -> None:
    kept = FaultTolerantCheckpointing(folder="memory://bucket/run", every_steps=2)
    killed_at(training(kept), 9)
    assert load_newest("memory://bucket/run")[0] == 8
    assert same(training().fit(), training(kept).fit(resume=True))


def test_two_trainings_in_one_folder(tmp_path: Path) -> None:
    first, second = (training(FaultTolerantCheckpointing(), folder=tmp_path) for _ in range(2))
    messages = []

    def begin(batch: Any) -> None:
        if first.step == 1:
            with pytest.raises(BadInput) as refused:
                second.fit()
            messages.append(str(refused.value))

    first.on("batch_start", begin)
    first.fit()
    assert messages == [
        f"another training keeps its checkpoints in {tmp_path}; wait for its end, or name another folder"
    ]


def test_without_a_place_it_says_what_to_write() -> None:
    with pytest.raises(
        BadInput, match=r"has no place to write to; name a folder in it, or give the TrainingLoop"
    ):
        training(FaultTolerantCheckpointing())


def test_what_cannot_be_written_ends_the_training_and_leaves_what_was_there(tmp_path: Path) -> None:
    loop = training(FaultTolerantCheckpointing(every_steps=2), folder=tmp_path)
    loop.on(
        "batch_start", lambda batch: (tmp_path / "step-00000006").write_text("") if loop.step == 5 else None
    )
    with pytest.raises(BadInput, match=r"cannot write .*step-00000006"):
        loop.fit()
    assert load_newest(tmp_path)[0] == 4


def test_in_a_foreign_trainer_it_is_refused() -> None:
    loop = BorrowedLoop("Lightning", nn.Linear(1, 1), torch.device("cpu"), judged=False)
    with pytest.raises(
        BadInput, match="fault_tolerant_checkpointing: it uses checkpoints, and the trainer writes"
    ):
        loop.attach([FaultTolerantCheckpointing()])


# SIGTERM ---------------------------------------------------------------------------------------------------


def test_sigterm_ends_the_step_keeps_it_and_says_so(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    kept = FaultTolerantCheckpointing()
    expected = training().fit()
    loop = training(kept, folder=tmp_path)
    loop.on("batch_start", lambda batch: signal.raise_signal(signal.SIGTERM) if loop.step == 8 else None)
    with pytest.raises(Terminated, match="SIGTERM: the state after step 9 is kept"):
        loop.fit()
    assert signal.getsignal(signal.SIGTERM) is before
    assert load_newest(tmp_path)[0] == 9
    assert same(expected, training(kept, folder=tmp_path).fit(resume=True))


@pytest.mark.parametrize("again", [True, False])
def test_a_step_that_outlasts_the_grace_time_is_left(tmp_path: Path, again: bool) -> None:
    def stuck(batch: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        if again:
            signal.raise_signal(signal.SIGTERM)
        time.sleep(60)

    loop = training(FaultTolerantCheckpointing(grace_seconds=99 if again else 0.05), folder=tmp_path)
    loop.on("batch_start", stuck)
    with pytest.raises(Terminated, match="the step and its checkpoint did not end within"):
        loop.fit()


RECIPE = """
workload: breast_cancer
train: {epochs: 400, device: cpu, threads: 1}
instructions:
  - fault_tolerant_checkpointing: {every_steps: 5}
"""


def test_a_run_that_gets_sigterm_says_how_to_go_on(tmp_path: Path) -> None:
    recipe, out = tmp_path / "long.yaml", tmp_path / "runs"
    recipe.write_text(RECIPE)
    command = [sys.executable, "-m", "fulldeck", "run", str(recipe), "--out", str(out), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("*/checkpoints/*/manifest.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    line = errors.splitlines()[-1]
    assert line.startswith("SIGTERM: the state after step ")
    assert line.endswith(f" is kept; go on with: fulldeck run {recipe} --out {out} --resume")
    (folder,) = [path for path in out.iterdir() if not path.is_symlink()]
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert result["error"].startswith("SIGTERM: the state after step ")
    step = int(result["error"].split()[5])
    assert load_newest(folder / "checkpoints")[0] == step
