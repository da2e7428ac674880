"""What the loop costs, counted in Python calls a step: exact, whatever else runs on the machine.

`benchmarks/loop_overhead.py` measures the same in microseconds.
"""

import gc
import sys
from collections import Counter

import torch
from torch import nn

from fulldeck.training.loop import TrainingLoop

EVENTS = ("batch_start", "part_start", "after_forward", "after_backward", "before_step", "step_end")
PYTHON_CALLS, C_CALLS = 12, 14
"""What a step of the loop may add to a bare one. Raise them knowingly."""


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def batches(steps):
    return [(torch.ones(4, 8), torch.zeros(4, dtype=torch.long))] * steps


def optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def bare(steps):
    model = network()
    sgd = optimizer(model.parameters())
    for inputs, targets in batches(steps):
        sgd.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        sgd.step()


def loop(steps, *events):
    training = TrainingLoop(
        network(), batches(steps), nn.functional.cross_entropy, optimizer=optimizer, device="cpu"
    )
    for event in events:
        training.on(event, lambda argument: None)
    training.fit()


def calls_a_step(run):
    """Calls of Python functions, of C functions: the difference of two runs, divided by the steps."""
    counts = []
    for steps in (10, 30):
        seen: Counter[str] = Counter()

        def note(frame, event, argument, seen=seen):
            seen[event] += 1

        # Else what earlier tests left behind is collected, and its finalizers counted.
        gc.collect()
        gc.disable()
        sys.setprofile(note)
        try:
            run(steps)
        finally:
            sys.setprofile(None)
            gc.enable()
        counts.append(seen)
    few, many = counts
    return tuple((many[event] - few[event]) / 20 for event in ("call", "c_call"))


def test_the_loop_adds_few_calls_to_a_bare_one():
    bare(2), loop(2)
    own, foreign = calls_a_step(bare)
    python, c = calls_a_step(loop)
    assert python - own <= PYTHON_CALLS
    assert c - foreign <= C_CALLS


def test_a_handler_costs_its_own_call_and_its_event_one_that_times_it():
    loop(2)
    nothing, ten = calls_a_step(loop), calls_a_step(lambda steps: loop(steps, *(EVENTS * 2)[:10]))
    assert ten[0] - nothing[0] == 10 + 5  # after_backward is not timed


def test_events_outside_of_the_step_cost_nothing_in_it():
    outside = ("ready", "epoch_start", "evaluation", "epoch_end", "fit_end", "hand_over")

    def run(steps):
        training = TrainingLoop(
            network(), batches(steps), nn.functional.cross_entropy, optimizer=optimizer, device="cpu"
        )
        for event in outside:
            training.on(event, lambda *arguments: None)
        training.fit()

    loop(2)
    assert calls_a_step(run) == calls_a_step(loop)
