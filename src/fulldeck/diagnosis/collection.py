"""Collect: a few real steps of a recipe, timed by the loop's own clocks, then profiled, then counted.

The shares of a step come from steps without any profiler; the profiler's steps only say how forward and
backward divide among operators. It is the run itself, stopped early, in a temporary folder.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fulldeck.diagnosis.bottleneck import split_by_bound
from fulldeck.diagnosis.ceilings import Ceilings, ceilings
from fulldeck.diagnosis.findings import Findings
from fulldeck.diagnosis.memory import SavedForBackward, memory_by_kind, size_of
from fulldeck.diagnosis.operators import RANGE, Recorder, timed_operators
from fulldeck.diagnosis.pipeline_alone import measure_pipeline
from fulldeck.diagnosis.work import WorkCounter, tried_in_bfloat16
from fulldeck.errors import BadInput, RunFailed
from fulldeck.pipeline.run import run
from fulldeck.training.step_clock import BACKWARD, COMMUNICATION, PHASES
from fulldeck.watchers.watcher import Watcher

if TYPE_CHECKING:
    from fulldeck.recipe.recipe import Recipe
    from fulldeck.training.batch import Batch, Part
    from fulldeck.training.loop import TrainingLoop

WARM_UP, TIMED = 3, 25
"""Steps that are not counted (caches fill, kernels are chosen), and at least so many that the clocks run over."""
TIMED_SECONDS = 0.5
"""Short steps are timed at least for so long."""
LONGEST = 8.0
"""Seconds after which warming up, or timing, goes on no further than it must."""
WARM, TIMED_ENOUGH, PROFILED_ENOUGH = 1, 2, 3
"""What the ranks agree on, one after the other."""
EPOCHS = 10_000
"""A short training goes on until there have been enough steps."""


def collect(
    recipe: Recipe,
    *,
    fresh: bool = False,
    limit: float = math.inf,
    tell: Callable[[str], None] = lambda text: None,
) -> Findings | None:
    """Run `recipe` for about thirty steps and find out where its time and memory go.

    Of several processes that train together all are timed, and the first one's figures are returned; None on
    the others. `fresh` measures the machine's ceilings again; no step begins `limit` seconds after the call. Raises
    BadInput as the run would, and RunFailed in one line if the training fails in these steps, its loss is not finite,
    or the time is over.
    """
    train = recipe.train.replace(epochs=max(EPOCHS, recipe.train.epochs or 0), max_steps=None)
    collector = _Collector(fresh, limit, tell)
    with tempfile.TemporaryDirectory(prefix="fulldeck-") as folder:
        try:
            run(replace(recipe, trackers=(), train=train), out=Path(folder), watcher=collector)
        except _Enough as enough:
            return enough.findings
        except (BadInput, RunFailed):
            raise
        except Exception as error:  # the user's model, data or loss may raise anything
            where = (
                f"step {collector.begun} of the training"
                if collector.begun
                else "the run, before its first step"
            )
            said = str(error).strip().splitlines() or [""]
            raise RunFailed(f"{where} failed: {type(error).__name__}: {said[0]}") from error
    raise RunFailed("the training ended before its steps could be timed")


class _Enough(BaseException):
    """All figures are there. No Exception: the run has not failed."""

    def __init__(self, findings: Findings | None) -> None:
        super().__init__()
        self.findings = findings


class _Collector(Watcher):
    """Goes through warming up, timing, profiling and counting, one step after the other."""

    on_all_ranks = True

    def __init__(self, fresh: bool, limit: float, tell: Callable[[str], None]) -> None:
        self.fresh = fresh
        self.limit = limit
        self.called = time.perf_counter()
        self.tell = tell
        self.begun = self.timed = self.profiled = 0
        self.seconds = [0.0] * len(PHASES)
        self.since = time.perf_counter()
        self.recorder = Recorder()
        self.events: Sequence[Any] = ()
        self.counter = WorkCounter()
        self.activations = self.gradients = 0
        self.at: Callable[[], None] = self._warm_up
        self.recording = self.counting = False
        self.compiled_before = _compilations()

    def stage(self, title: str) -> None:
        self.tell(title)

    def training(self, loop: TrainingLoop) -> None:
        self.loop = loop
        self.since = time.perf_counter()
        loop.checkpoints = None  # nobody goes on from here
        loop.on("batch_start", self._begin)
        loop.on("before_step", self._look_at_gradients)
        loop.on("epoch_end", self._keep_clock)
        for phase in ("gradients", "apply"):
            loop.around(phase, self._around(phase))
        loop.around("forward", self._forward)
        if loop.device.type != "cpu":
            loop.around("part", self._waiting_for_backward)

    # One state after the other, each at the beginning of a step --------------------------------------

    def _begin(self, batch: Batch) -> None:
        self.batch = batch
        if time.perf_counter() - self.called > self.limit:
            raise RunFailed(f"{self.limit:.0f} s were not enough, of which {self.begun} steps began")
        self.at()
        self.begun += 1

    def _warm_up(self) -> None:
        if self._agreed(WARM, self.begun >= WARM_UP or (self.begun > 0 and self._late())):
            self._check_loss()
            self.tell("timing some steps")
            self.loop.clock.reset()
            self.since = time.perf_counter()
            self.at = self._time

    def _time(self) -> None:
        self.timed += 1
        enough = self.timed >= TIMED and time.perf_counter() - self.since > TIMED_SECONDS
        if self._agreed(TIMED_ENOUGH, enough or self._late()):
            self._keep_clock()
            self.tell("profiling some steps")
            self.recording = True
            self.recorder.start()
            self.at = self._profile_anew

    def _profile_anew(self) -> None:
        # The profiler's own first step allocates.
        self.recorder.stop()
        self.recorder.start()
        self.at = self._profile

    def _profile(self) -> None:
        self.profiled += 1
        if self._agreed(PROFILED_ENOUGH, self.recorder.enough(self.profiled)):
            self.events = self.recorder.stop()
            self.recording = False
            self.counting = True
            self.at = self._finish

    def _finish(self) -> None:
        self.counting = False
        self._check_loss()
        ranks = self.loop.ranks
        computing = sum(self.seconds) - self.seconds[COMMUNICATION]
        computed = ranks.gather(computing / self.timed)
        raise _Enough(self._findings(computed) if ranks.rank == 0 else None)

    def _agreed(self, stage: int, wanted: bool) -> bool:
        """Whether any rank wants `stage` to be over; each has clocks of its own, and all must go on alike."""
        return self.loop.ranks.agree(stage if wanted else 0) >= stage

    def _late(self) -> bool:
        return time.perf_counter() - self.since > LONGEST

    def _keep_clock(self) -> None:
        """The clock starts anew with each epoch."""
        if self.at == self._time:
            self.seconds = [
                one + more for one, more in zip(self.seconds, self.loop.clock.seconds, strict=True)
            ]

    def _check_loss(self) -> None:
        if self.loop.last_loss is not None and not math.isfinite(float(self.loop.last_loss.detach())):
            raise RunFailed(
                f"the loss is not finite after step {self.begun} of the training; try a tenth of the learning "
                "rate, and look for NaN in the data"
            )

    # Around the phases -------------------------------------------------------------------------------

    def _around(self, phase: str) -> Callable[[Any, Callable[[Any], None]], None]:
        def within(argument: Any, inner: Callable[[Any], None]) -> None:
            if self.recording:
                with torch.profiler.record_function(RANGE + phase):
                    inner(argument)
            elif self.counting:
                with self.counter:
                    inner(argument)
            else:
                inner(argument)
            self._wait()

        return within

    def _forward(self, part: Part, inner: Callable[[Part], None]) -> None:
        if self.recording:
            with torch.profiler.record_function(f"{RANGE}forward"):
                inner(part)
        elif self.counting:
            known = [*self.loop.model.parameters(), *self.loop.model.buffers()]
            kept = SavedForBackward(known)
            with kept:
                inner(part)
            self.activations = max(self.activations, kept.bytes)
        else:
            inner(part)
        self._wait()

    def _waiting_for_backward(self, part: Part, inner: Callable[[Part], None]) -> None:
        inner(part)
        start = time.perf_counter()
        self._wait()
        self.loop.clock.seconds[BACKWARD] += time.perf_counter() - start

    def _wait(self) -> None:
        """The host's clocks tell where an accelerator's time goes only if the host waits for it."""
        if self.loop.device.type != "cpu":
            torch.accelerator.synchronize(self.loop.device)

    def _look_at_gradients(self, batch: Batch) -> None:
        if self.counting:
            self.gradients = size_of([parameter.grad for parameter in self.loop.parameters()])

    # What it comes to --------------------------------------------------------------------------------

    def _findings(self, computed: Sequence[float]) -> Findings:
        loop, device = self.loop, self.loop.device
        self.tell("measuring the machine's ceilings")
        # Before anything else is allocated: the peak is that of the steps.
        memory = memory_by_kind(loop, self.batch, self.gradients, self.activations)
        machine: Ceilings = ceilings(device, fresh=self.fresh)
        step = sum(self.seconds) / self.timed
        phases = {name: value / self.timed / step for name, value in zip(PHASES, self.seconds, strict=True)}
        wall = {
            "gradients": step * (phases["forward"] + phases["backward"]),
            "apply": step * phases["optimizer"],
        }
        operators = timed_operators(
            self.events, self.counter.work, self.profiled, wall, machine, on_device=device.type != "cpu"
        )
        self.tell("reading the input pipeline alone")
        return Findings(
            kind="training",
            device=str(device),
            step_seconds=step,
            phases=phases,
            bounds=split_by_bound(phases, operators, step),
            operators=tried_in_bfloat16(operators, self.counter.work, device),
            ceilings=machine,
            memory=memory,
            pipeline=measure_pipeline(loop.loader, loop.data, loop.epoch),
            recompiles=self._recompiles(),
            model_bytes=memory.weights,
            rank_seconds=tuple(computed),
            steps={"warm_up": WARM_UP, "timed": self.timed, "profiled": self.profiled},
        )

    def _recompiles(self) -> int:
        """Times that torch.compile had to compile a function of this training anew."""
        before = set(map(id, self.compiled_before))
        return sum(one.recompile_reason is not None for one in _compilations() if id(one) not in before)


def _compilations() -> list[Any]:
    """What torch tells about each function that it compiled last, in this process."""
    if "torch._dynamo.utils" not in sys.modules:
        return []
    return list(sys.modules["torch._dynamo.utils"].get_compilation_metrics())
