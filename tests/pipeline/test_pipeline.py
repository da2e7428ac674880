"""The pipeline: doors in order, the gate after each conversion, honest endings, resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from fulldeck.candidate import Candidate, Tolerance
from fulldeck.checkpoints.checkpoint import load_checkpoint
from fulldeck.data import Data
from fulldeck.errors import BadInput, CannotAct, RunFailed
from fulldeck.instruction import Evidence, Instruction, Situation, instruction, param
from fulldeck.pipeline.run import run
from fulldeck.recipe.recipe import Entry, make_recipe
from fulldeck.service import Service
from fulldeck.training.loop import TrainingLoop
from fulldeck.watchers.watcher import Watcher
from tests.small_disk import on_small_disk

EVIDENCE = Evidence(workload="digits", metric="accuracy", expect=">= +0.0")
QUICK: dict[str, Any] = {"max_steps": 4, "device": "cpu", "threads": 1}


@instruction(921, stage="extensions", evidence=EVIDENCE)
class OpensAllDoors(Instruction):
    """Leaves a word at each door for the next."""

    word: str = param("x", doc="What is left.")

    def prepare(self, data: Data) -> Data:
        return replace(data, train=data.train.take(range(1000))).carrying("opens_all_doors", [self.word])

    def attach(self, loop: TrainingLoop) -> None:
        assert loop.data is not None
        words = [*loop.data.carried["opens_all_doors"], "attach"]
        loop.carry(words)
        figures = loop.figures()
        loop.on("fit_end", lambda: figures.update(steps={"after": loop.step}))

    def optimise(self, candidate: Candidate) -> Candidate:
        return candidate.carrying("opens_all_doors", [*candidate.carried["opens_all_doors"], "optimise"])

    def configure(self, service: Service) -> Service:
        words = [*service.candidate.carried["opens_all_doors"], "configure"]
        (service.folder / "words.json").write_text(json.dumps(words))
        return service


@instruction(922, stage="inference", evidence=EVIDENCE, touches={"weights"})
class Spoils(Instruction):
    """A conversion that goes wrong in silence."""

    def optimise(self, candidate: Candidate) -> Candidate:
        class Constant(nn.Module):
            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                return torch.ones(len(inputs), 10)

        return replace(candidate, module=Constant())

    def tolerance(self) -> Tolerance:
        return Tolerance(metric_drop=0.01, agreement=0.99)


@instruction(923, stage="training", evidence=EVIDENCE)
class Cannot(Instruction):
    """Finds out late that it has nothing to work on."""

    def attach(self, loop: TrainingLoop) -> None:
        raise CannotAct("the model has no repeated blocks")


@instruction(925, stage="data", evidence=EVIDENCE)
class Refuses(Instruction):
    """Wants other data."""

    def prepare(self, data: Data) -> Data:
        raise BadInput("the data are too old")


@instruction(924, stage="training", evidence=EVIDENCE)
class Poisons(Instruction):
    """Makes the loss NaN at a step."""

    def attach(self, loop: TrainingLoop) -> None:
        def poison(batch: Any) -> None:
            if loop.step == 2:
                batch.inputs = batch.inputs * float("nan")

        loop.on("batch_start", poison)


@instruction(926, stage="training", evidence=EVIDENCE)
class ChangesItsMind(Instruction):
    """What it tried on this machine comes out otherwise each time."""

    reason: ClassVar[str | None] = None

    def cannot(self, situation: Situation) -> str | None:
        return self.reason


class StopsAfterAnEpoch(Watcher):
    def recorded(self, values: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt


def only(folder: Path) -> Path:
    (path,) = [path for path in folder.iterdir() if not path.is_symlink()]
    return path


def test_one_instruction_may_use_every_door_and_its_words_travel(tmp_path: Path) -> None:
    result = run("digits", [OpensAllDoors(word="hello")], out=tmp_path, **QUICK)
    folder = only(tmp_path)
    assert json.loads((folder / "words.json").read_text()) == ["hello", "attach", "optimise", "configure"]
    (entry,) = result["instructions"]
    assert entry["status"] == "applied"
    assert entry["changes"]["train_rows"] == {"before": 1797, "after": 1000}
    assert entry["changes"]["steps"] == {"after": 4}
    assert entry["changes"]["agreement"] == {"after": 1.0}
    assert set(entry["changes"]) >= {"accuracy", "bytes", "latency_ms"}


def test_the_run_folder_has_what_was_promised(tmp_path: Path) -> None:
    result = run("digits", [], out=tmp_path, **QUICK)
    folder = only(tmp_path)
    assert result["run"] == str(folder)
    assert (tmp_path / "latest").resolve() == folder.resolve()
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["status"] == "finished"
    assert set(result["metrics"]) == {"train", "validation", "test"}
    assert 0 <= result["metrics"]["test"]["accuracy"] <= 1
    assert {path.name for path in folder.iterdir()} >= {
        "recipe.yaml",
        "plan.json",
        "metrics.jsonl",
        "evaluation.json",
        "checkpoints",
    }
    epoch = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert len(epoch["losses"]) == epoch["step"]
    assert epoch["losses_every"] == 1
    assert json.loads((folder / "evaluation.json").read_text())["split"] == "test"
    assert result["memory"]["training_peak_bytes"] > 2**20
    again = run(folder / "recipe.yaml", out=tmp_path / "again")
    assert again["metrics"] == result["metrics"]


def test_a_conversion_that_goes_wrong_stops_the_run_with_the_figures(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"spoils broke its tolerance: accuracy went from 0\.\d+ to 0\.\d+"):
        run("digits", [Spoils()], out=tmp_path, max_steps=40, device="cpu", threads=1)
    assert json.loads((only(tmp_path) / "result.json").read_text())["status"] == "failed"


def test_the_recipe_may_accept_what_breaks_a_tolerance(tmp_path: Path) -> None:
    recipe = replace(
        make_recipe("digits", train={"max_steps": 40, "threads": 1}),
        entries=(Entry(Spoils(), tolerate=True),),
    )
    result = run(recipe, out=tmp_path)
    assert any("spoils broke its tolerance" in note for note in result["notes"])


def test_an_instruction_that_cannot_act_is_told_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot cannot act: the model has no repeated blocks$"):
        run("digits", [Cannot()], out=tmp_path, **QUICK)
    assert list(tmp_path.iterdir()) == []


def test_what_a_door_refuses_names_its_instruction(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^refuses: the data are too old$"):
        run("digits", [Refuses()], out=tmp_path, **QUICK)


def test_what_was_guessed_is_told_before_anything_fails_of_it(tmp_path: Path) -> None:
    class Notes(Watcher):
        def note(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    (tmp_path / "few.csv").write_text("a,b\n" + "\n".join(f"{i},{'xy'[i % 2]}" for i in range(40)))
    with pytest.raises(BadInput, match="refuses"):
        run(
            {"kind": "table", "path": str(tmp_path / "few.csv")},
            [Refuses()],
            out=tmp_path / "runs",
            watcher=Notes(),
            **QUICK,
        )
    assert any("the target is the last one" in text for text in said)
    assert said[-1].startswith("nothing was trained, so ")


def test_a_machine_that_is_not_here_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "far.yaml").write_text("workload: digits\nhardware: intel-max\ninstructions: []\n")
    with pytest.raises(BadInput, match=r"hardware: intel-max wants it; .* --set hardware=auto"):
        run(tmp_path / "far.yaml", out=tmp_path)


def test_an_optional_one_is_skipped_and_named(tmp_path: Path) -> None:
    recipe = replace(make_recipe("digits", train=QUICK), entries=(Entry(Cannot(), optional=True),))
    result = run(recipe, out=tmp_path)
    assert result["instructions"][0]["status"] == "skipped"
    assert "cannot was skipped: the model has no repeated blocks" in result["notes"]


def test_a_nan_loss_stops_the_run_and_is_written_down(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"the loss is not finite at step 2 .*learning rate .*try a tenth"):
        run("digits", [Poisons()], out=tmp_path, **QUICK)
    assert "not finite" in json.loads((only(tmp_path) / "result.json").read_text())["error"]


RECIPE = """
workload: digits
train: {epochs: 3, batch_size: 256, device: cpu, threads: 1, checkpoint_every: 5}
instructions:
  - lr_scheduler
  - weight_averaging
  - auto_data_augmentation: {attack: fgsm}
"""


def started(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fulldeck", "run", str(recipe), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_checkpoint(out: Path) -> None:
    deadline = time.monotonic() + 120
    while not any(out.glob("*/checkpoints/last.safetensors")):
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)


def test_killed_and_resumed_the_weights_are_those_of_an_uninterrupted_run(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE)
    whole = Path(run(recipe, out=tmp_path / "whole")["run"])
    process = started(recipe, tmp_path / "killed")
    wait_for_checkpoint(tmp_path / "killed")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    result = run(recipe, out=tmp_path / "killed", resume=True)
    assert only(tmp_path / "killed") == Path(result["run"])
    expected, resumed = (
        load_checkpoint(p / "checkpoints/last.safetensors") for p in (whole, Path(result["run"]))
    )
    assert all(torch.equal(expected["model"][name], value) for name, value in resumed["model"].items())
    lines = [json.loads(line) for line in (Path(result["run"]) / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    with pytest.raises(BadInput, match="no unfinished run of this recipe"):
        run(recipe, out=tmp_path / "killed", resume=True)


@pytest.mark.parametrize(("before", "after"), [(None, "slower here"), ("slower here", None)])
def test_a_resumed_run_keeps_what_was_decided_when_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None, after: str | None
) -> None:
    recipe = make_recipe("digits", train={"epochs": 2, "device": "cpu", "threads": 1})
    recipe = replace(recipe, entries=(Entry(ChangesItsMind(), optional=True),))
    monkeypatch.setattr(ChangesItsMind, "reason", before)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, out=tmp_path, watcher=StopsAfterAnEpoch())
    monkeypatch.setattr(ChangesItsMind, "reason", after)
    result = run(recipe, out=tmp_path, resume=True)
    assert [one.get("reason") for one in result["instructions"]] == [before]
    assert run(recipe, out=tmp_path)["instructions"][0].get("reason") == after


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE.replace("epochs: 3", "epochs: 300"))
    process = started(recipe, tmp_path / "runs")
    wait_for_checkpoint(tmp_path / "runs")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"--resume" in errors
    assert b"Traceback" not in errors
    assert json.loads((only(tmp_path / "runs") / "result.json").read_text())["status"] == "interrupted"


def test_a_full_disk_ends_the_run_with_one_line(tmp_path: Path) -> None:
    words = f"-m fulldeck run digits --set train.epochs=2 --set train.threads=1 --out {tmp_path}/runs"
    result_file = tmp_path / "runs" / "latest" / "result.json"
    ended = on_small_disk(tmp_path, "3m", f"{sys.executable} {words}; echo $?; cat {result_file}")
    assert ended.stderr.splitlines()[-1].endswith("last.safetensors: no space left on device")
    assert "Traceback" not in ended.stderr
    _, _, result = ended.stdout.partition("\n2\n")
    assert json.loads(result)["status"] == "failed"
