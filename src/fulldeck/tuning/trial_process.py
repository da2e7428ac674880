"""A process that carries out trials: `python -m fulldeck.tuning.trial_process`.

Orders are lines of JSON on standard input: `recipe` (a file), `seed`, `threads` (or null), `out` (a folder for what
it works on) and `trained` (a folder of trainings by content). Answers are lines of JSON on standard output. First
{"steps", "figures", "judged"}: how many steps the whole training has, the names of its figures, and a hash of what it
is judged on; the reply is a list of the shares of the training at which to stop and tell. At each of these it says
{"rung": true, "figures"}, and after each other epoch {"figures"}; to both, `go`, `pause` or `stop` is the reply. Then
comes {"trained": figures}, and last {"finished": figures} of the whole trial, {"paused": true}, {"stopped": true} or
{"error"}. It ends with its input.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulldeck.checkpoints.checkpoint import Checkpoints
from fulldeck.errors import BadInput, RunFailed
from fulldeck.files import tidy
from fulldeck.machine import peak_memory
from fulldeck.pipeline.execution import Execution
from fulldeck.pipeline.run import situation
from fulldeck.planner import make_plan
from fulldeck.recipe.reader import read_recipe
from fulldeck.run_folder import RunFolder
from fulldeck.tuning.trained import Spent, Trained
from fulldeck.watchers.watcher import Watcher

if TYPE_CHECKING:
    from fulldeck.training.loop import TrainingLoop

VALIDATION = "validation_"
SPENT = ("train_seconds", "training_peak_bytes")
AFTER_TRAINING = "optimise"
"""The stage of a run that follows the training."""


class _Paused(BaseException):
    """The training has come as far as it should for now, and is kept."""


class _Stopped(BaseException):
    """The training is not worth going on with."""


class _Channel:
    def __init__(self) -> None:
        # What libraries print must not come between the answers.
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def order(self) -> dict[str, Any] | None:
        line = sys.stdin.readline()
        order: dict[str, Any] | None = json.loads(line) if line else None
        return order

    def answer(self, **values: Any) -> None:
        self.answers.write(json.dumps(values) + "\n")
        self.answers.flush()

    def reply(self) -> str:
        return sys.stdin.readline().strip()


class _Rungs(Watcher):
    """Stands in for the loop's checkpoints: where a rung is due the state is written, told, and perhaps left."""

    def __init__(self, channel: _Channel, trained: Trained, folder: RunFolder) -> None:
        self.channel = channel
        self.shares: list[float] = []
        self.trained = trained
        self.folder = folder
        self.before = trained.bring(folder)
        self.spent = self.before or Spent()

    def training(self, loop: TrainingLoop) -> None:
        self.loop = loop
        assert loop.checkpoints is not None
        self.inner: Checkpoints = loop.checkpoints
        loop.checkpoints = self
        self.channel.answer(steps=loop.total_steps, figures=sorted(loop.metrics), judged=judged_hash(loop))
        reply = self.channel.reply()
        if not reply.startswith("["):
            raise _Stopped
        self.shares = json.loads(reply)
        self.began = time.perf_counter()

    def stage(self, title: str) -> None:
        """After the training it is kept: what comes now may fail, and others may need it."""
        if title == AFTER_TRAINING:
            spent, self.last = self.now(), self.figures()
            self.trained.keep(self.folder, spent)
            self.channel.answer(trained=self.last)

    def opened(self, loop: TrainingLoop) -> AbstractContextManager[object]:
        return self.inner.opened(loop)

    def read(self, resume: bool) -> dict[str, Any] | None:
        return self.inner.read(resume)

    def due(self) -> bool:
        inner = self.inner.due()
        # After an epoch it is asked once, and then something is always told.
        return inner or self.loop.step_in_epoch == 0 or self._at_rung()

    def write(self, state: dict[str, Any]) -> None:
        self.inner.write(state)
        if self._whole():
            return
        if self._at_rung():
            self.shares.pop(0)
            self.channel.answer(rung=True, figures=self.figures())
        elif self.loop.step_in_epoch == 0:
            self.channel.answer(figures=self.figures())
        else:
            return
        reply = self.channel.reply()
        if reply == "pause":
            raise _Paused
        if reply != "go":
            raise _Stopped

    def _whole(self) -> bool:
        loop = self.loop
        return loop.stopped is not None or (loop.step_in_epoch == 0 and loop.epoch == loop.epochs)

    def _at_rung(self) -> bool:
        """Whether the next rung is reached; rungs of whole epochs are those nearest to the share."""
        if not self.shares:
            return False
        loop, share = self.loop, self.shares[0]
        steps = round(share * loop.total_steps)
        if steps >= loop.steps_per_epoch:
            steps = round(steps / loop.steps_per_epoch) * loop.steps_per_epoch
        return loop.step >= max(steps, 1)

    def figures(self) -> dict[str, float]:
        """Of the training so far, named as those of a whole run are."""
        loop = self.loop
        if loop.step_in_epoch == 0 or loop.validation is None:
            found = dict(loop.history[-1]) if loop.history else {}
        else:
            found = {f"{VALIDATION}{name}": value for name, value in loop.evaluate(loop.validation).items()}
        found = {
            name if name == f"{VALIDATION}loss" else name.removeprefix(VALIDATION): float(value)
            for name, value in found.items()
        }
        spent = self.now()
        # Until the end it is foretold.
        left = 1.0 if self._whole() else loop.total_steps / max(loop.step, 1)
        found["train_seconds"] = spent.seconds * left
        found["training_peak_bytes"] = spent.peak_bytes
        return found

    def now(self) -> Spent:
        """What the training has taken until now."""
        peak = max(self.spent.peak_bytes, float(peak_memory(self.loop.device)))
        return Spent(self.spent.seconds + time.perf_counter() - self.began, peak)


def judged_hash(loop: TrainingLoop) -> str:
    """A hash of the targets that a run is judged on: figures of other rows cannot be compared."""
    digest = hashlib.sha256()
    for name, examples in (loop.data.splits() if loop.data is not None else {}).items():
        if name != "train":
            digest.update(f"{name} {len(examples)}".encode() + examples.targets.tobytes())
    return digest.hexdigest()[:16]


def figures_of(result: Mapping[str, Any]) -> dict[str, float]:
    """What a run came to, by name: the metrics on validation data (test: `test_NAME`), the losses, the latencies of
    the rehearsal and the memory of its server, `artifact_bytes` of what is served.
    """
    history = result["training"]["history"][-1]
    found = {name: float(value) for name, value in history.items() if isinstance(value, (int, float))}
    found = {name: value for name, value in found.items() if name in ("loss", f"{VALIDATION}loss")}
    found |= {f"test_{name}": value for name, value in result["metrics"].get("test", {}).items()}
    found |= result["metrics"].get("validation") or result["metrics"]["train"]
    if (rehearsal := result["rehearsal"]) is not None:
        found |= {f"latency_{name}_ms": value for name, value in rehearsal["latency_ms"].items()}
        found["server_memory_bytes"] = float(rehearsal["memory_bytes"])
    found["artifact_bytes"] = float(result["artifacts"][-1]["bytes"])
    return found


def carry_out(order: Mapping[str, Any], channel: _Channel) -> None:
    """One order, from its first answer to its last."""
    recipe = read_recipe(Path(order["recipe"]))
    settings = {"seed": order["seed"]} | ({"threads": order["threads"]} if order["threads"] else {})
    plan = make_plan(
        recipe_with := replace(recipe, train=recipe.train.replace(**settings)), situation(recipe)
    )
    folder = RunFolder.create(Path(order["out"]), recipe.name, recipe_with.to_yaml())
    trained = Trained(Path(order["trained"]), plan)
    try:
        with folder.locked():
            rungs = _Rungs(channel, trained, folder)
            tidy(folder.path)
            try:
                result = Execution(plan, folder, rungs.before is not None, rungs).finish()
            except _Paused:
                trained.keep(folder, rungs.now())
                channel.answer(paused=True)
                return
            figures = figures_of(result)
            figures |= {name: rungs.last[name] for name in SPENT}
        channel.answer(finished=figures)
    finally:
        shutil.rmtree(folder.path, ignore_errors=True)


def main() -> None:
    """Answer orders until there are none."""
    channel = _Channel()
    while (order := channel.order()) is not None:
        try:
            carry_out(order, channel)
        except _Stopped:
            channel.answer(stopped=True)
        except (BadInput, RunFailed) as error:
            channel.answer(error=str(error).splitlines()[0])
        except KeyboardInterrupt:
            return
        except Exception as error:
            traceback.print_exc()
            channel.answer(error=f"{type(error).__name__}: {error}".splitlines()[0])


if __name__ == "__main__":
    main()
