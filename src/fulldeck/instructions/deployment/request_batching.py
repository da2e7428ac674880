"""Join the requests that wait for the engine, so that one call answers many.

As soon as the engine is free it gets what has come by then: at a low load each request by itself and at once, at
a high load many together. Nothing ever waits for others to come. How many are joined follows from what calls
of each size take, measured when the server starts and from then on: no more than pays, no more than the largest
batch, and none that would make a request miss its deadline. For engines that prepare for every size that they see
first, a batch is filled up to a size that was warmed up, where that pays.

Before it is used, a few rows are run together and one by one: a model whose rows influence each other is refused.

Use when: many requests come at once, and a call with several rows costs less than several calls.
Avoid when: a call already takes all cores with one row, as large convolutions do; then nothing is joined anyway.
Reference: Crankshaw et al. 2017, "Clipper", NSDI; Triton's dynamic batcher,
github.com/triton-inference-server/server.

Example:
    >>> calls = []
    >>> def model(inputs):
    ...     calls.append(len(inputs["x"]))
    ...     return {"y": 2 * inputs["x"]}
    >>> joined = join_calls(model, max_batch=64)  # to be called from many threads
    >>> joined({"x": np.ones((1, 3))})["y"].shape
    (1, 3)
    >>> calls
    [1]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from fulldeck.data import Array
from fulldeck.errors import CannotAct
from fulldeck.instruction import GOALS, Evidence, Instruction, instruction
from fulldeck.package.reference import TOLERANCE
from fulldeck.service import BATCHING, Batching, Service
from fulldeck.serving.process import asked, most_per_second

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
ROWS = 4
CLIENTS, SECONDS = 32, 1.0


@instruction(
    42,
    stage="deployment",
    goals=GOALS,
    touches={"service"},
    after={"touches:artifact": "the rows of the model that is served are tried together"},
    evidence=Evidence(
        workload="digits",
        metric="requests_per_s",
        expect=">= 1.5x",
        beside=("onnx_export", "model_serving_framework", "model_packaging"),
    ),
)
class RequestBatching(Instruction, Batching):
    """Its parameters are the settings of `fulldeck.service.Batching`."""

    def prove(self, outcome: Outcome) -> float:
        """requests_per_s: what the packaged server answers to clients that ask again at once."""
        with asked(outcome, CLIENTS) as (port, requests):
            return most_per_second(port, requests, clients=CLIENTS, seconds=SECONDS)

    def configure(self, service: Service) -> Service:
        candidate = service.candidate
        artifact = candidate.artifact
        precision = candidate.precision if artifact is None else artifact.precision

        def run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            return {"output": candidate.run(inputs)}

        # Integers and few bits are spread over a whole batch, so its other rows may change the last digits.
        if (reason := dependent(run, candidate.example(ROWS), same=TOLERANCE[precision])) is not None:
            raise CannotAct(f"requests cannot be joined: {reason}")
        settings = {name: getattr(self, name) for name in Batching.model_fields}
        return service.carrying(BATCHING, Batching(**settings).model_dump(mode="json"))


def dependent(run: Run, example: Mapping[str, Array], *, same: float = 1e-3) -> str | None:
    """Why rows may not be run together: how a row of `example` differs when run alone; None: they may.

    `same` is the difference that counts as none, relative to the largest output (if over 1).
    """
    rows = len(next(iter(example.values())))
    together = run(example)
    for row in range(rows):
        alone = run({name: array[row : row + 1] for name, array in example.items()})
        for name, array in together.items():
            if array.shape[:1] != (rows,) or alone[name].shape != (1, *array.shape[1:]):
                return f"output {name} has not one row for each row of the input"
            difference = float(np.abs(alone[name][0] - array[row]).max(initial=0.0))
            if not difference <= same * max(1.0, float(np.abs(array).max(initial=0.0))):
                return f"output {name} of a row changes by {difference:.2g} with the rows beside it"
    return None


def join_calls(run: Run, *, max_batch: int) -> Run:
    """`run` for many threads: calls that come while it runs are joined to the next one, by rows.

    Inputs and outputs have the batch first. A call never waits for others to come. If a joint call fails, its
    calls are run one by one, so that one cannot spoil the rest.
    """
    return _JoinedCalls(run, max_batch)


class _Call:
    def __init__(self, inputs: Mapping[str, Array]) -> None:
        self.inputs = inputs
        self.rows = len(next(iter(inputs.values())))
        self.shapes = [array.shape[1:] for array in inputs.values()]
        self.outputs: Mapping[str, Array] | None = None
        self.error: Exception | None = None


class _JoinedCalls:
    """Whoever gets the lock runs what waits, its own call and others; they find it done when they get it."""

    def __init__(self, run: Run, max_batch: int) -> None:
        self._run = run
        self._max_batch = max_batch
        self._waiting: deque[_Call] = deque()
        self._lock = Lock()

    def __call__(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        call = _Call(inputs)
        self._waiting.append(call)
        with self._lock:
            while call.outputs is None and call.error is None:
                self._run_some()
        if call.outputs is None:
            assert call.error is not None
            raise call.error
        return call.outputs

    def _run_some(self) -> None:
        first = self._waiting.popleft()
        calls, rows = [first], first.rows
        while self._waiting and self._waiting[0].shapes == first.shapes:
            if (rows := rows + self._waiting[0].rows) > self._max_batch:
                break
            calls.append(self._waiting.popleft())
        try:
            self._answer(calls)
        except Exception as error:
            if len(calls) == 1:
                first.error = error
                return
            for call in calls:
                try:
                    self._answer([call])
                except Exception as own:
                    call.error = own

    def _answer(self, calls: list[_Call]) -> None:
        names = calls[0].inputs
        joined = {name: np.concatenate([call.inputs[name] for call in calls]) for name in names}
        outputs = self._run(joined)
        start = 0
        for call in calls:
            end = start + call.rows
            call.outputs = {name: array[start:end] for name, array in outputs.items()}
            start = end
