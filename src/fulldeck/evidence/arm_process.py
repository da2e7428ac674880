"""One arm of a measurement, in a process of its own: `python -m fulldeck.evidence.arm_process`.

Orders come as lines of JSON on standard input, answers go as lines of JSON to standard output; all else
that is written goes to standard error. The first order says what the arm is: `mode` (steps or outcome),
`recipe` (a file), `out` (a folder for its runs), `peer` (a library that trains instead, or null). Then, in mode steps:

    {"steps": k}      train k more steps: {"wall_s", "cpu_s", "loss"}; the training begins anew when it ends
    {"peak": true}    {"peak_bytes"}: above what the imports took

and in mode outcome:

    {"seed": s, "prove": {"name", "parameters"} or null}   carry the recipe out: {"figures", "curve", "peak_bytes"}
    {"latency": calls}                    {"wall_s"}: seconds of one call with one row

An error is answered by {"error": one line} and ends the process, and so does the end of the input.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO

import torch

from fulldeck.catalogue import catalogue
from fulldeck.errors import BadInput, RunFailed
from fulldeck.evidence.outcome import Outcome, carry_out, proof
from fulldeck.evidence.peers import peer
from fulldeck.machine import peak_memory
from fulldeck.recipe.reader import read_recipe
from fulldeck.watchers.watcher import Watcher

if TYPE_CHECKING:
    from fulldeck.training.batch import Batch
    from fulldeck.training.loop import TrainingLoop

WARM_UP = 3
"""Steps of each training that are not timed: the first ones allocate."""


class _End(Exception):
    """No more orders, or a training that is to begin anew."""


class _Channel:
    def __init__(self, answers: TextIO) -> None:
        self.answers = answers

    def order(self) -> dict[str, Any]:
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(0)
        order: dict[str, Any] = json.loads(line)
        return order

    def answer(self, **values: Any) -> None:
        self.answers.write(json.dumps(values) + "\n")
        self.answers.flush()


class Steps(Watcher):
    """Trains only as far as it is told to, from within the loop's own events.

    Timed is a step with the wait for its batch; what happens between epochs is not.
    """

    def __init__(self, channel: _Channel, base: int, library: ModuleType | None) -> None:
        self.channel = channel
        self.base = base
        self.library = library
        self.left = self.wall = self.cpu = 0.0
        self.steps = 0

    def training(self, loop: TrainingLoop) -> None:
        self.loop = loop
        self.steps = 0
        if self.library is not None:
            self._mark()
            for loss in self.library.steps(loop):
                loop.last_loss = torch.tensor(loss)
                self._step()
        loop.on("epoch_start", self._mark)
        loop.on("step_end", self._step)
        loop.on("fit_end", self._begin_anew)

    def _mark(self) -> None:
        self.since = time.perf_counter(), time.process_time()

    def _step(self, batch: Batch | None = None) -> None:
        self.steps += 1
        if self.steps <= WARM_UP:
            self._mark()
            return
        if self.steps > WARM_UP + 1 or self.left:
            self._count()
        if self.left <= 0:
            self._obey()
        self._mark()

    def _count(self) -> None:
        if self.loop.device.type != "cpu" and self.left <= 1:
            torch.accelerator.synchronize()
        self.wall += time.perf_counter() - self.since[0]
        self.cpu += time.process_time() - self.since[1]
        self.left -= 1

    def _obey(self) -> None:
        if self.wall:
            assert self.loop.last_loss is not None
            self.channel.answer(wall_s=self.wall, cpu_s=self.cpu, loss=float(self.loop.last_loss.detach()))
            self.wall = self.cpu = 0.0
        order = self.channel.order()
        while order.get("peak"):
            self.channel.answer(peak_bytes=max(peak_memory(self.loop.device) - self.base, 0))
            order = self.channel.order()
        self.left = order["steps"]

    def _begin_anew(self) -> None:
        raise _End


def main() -> None:
    """Answer orders until there are none."""
    # What libraries print must not come between the answers.
    channel = _Channel(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    order = channel.order()
    base = peak_memory(torch.device("cpu"))
    try:
        recipe = read_recipe(Path(order["recipe"]))
        out = Path(order["out"])
        channel.answer(ready=True)
        if order["mode"] == "steps":
            meter = Steps(channel, base, peer(order["peer"]) if order["peer"] else None)
            while True:
                try:
                    carry_out(recipe, out, watcher=meter)
                except _End:
                    continue
        outcome: Outcome | None = None
        while True:
            order = channel.order()
            if "latency" in order:
                assert outcome is not None, "a latency is asked for after a run"
                channel.answer(wall_s=outcome.latency(order["latency"]) / 1000)
                continue
            outcome = carry_out(recipe, out, order["seed"])
            figures = outcome.figures()
            if (prove := order.get("prove")) is not None:
                figures["proof"] = proof(
                    outcome, catalogue().find(prove["name"]).load()(**prove["parameters"])
                )
            channel.answer(
                figures=figures,
                curve=outcome.curve(),
                peak_bytes=max(outcome.result["memory"]["training_peak_bytes"] - base, 0),
                steps=outcome.result["training"]["steps"],
                metric=next(iter(outcome.result["metrics"]["train"])),
            )
    except (BadInput, RunFailed) as error:
        channel.answer(error=str(error).splitlines()[0])
    except Exception as error:
        traceback.print_exc()
        channel.answer(error=f"{type(error).__name__}: {error}".splitlines()[0])


if __name__ == "__main__":
    main()
