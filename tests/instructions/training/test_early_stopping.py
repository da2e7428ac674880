import math
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from fulldeck.errors import BadInput
from fulldeck.instructions.training.early_stopping import BestWeights, EarlyStopping, is_best, plateaued
from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.instructions.training.weight_averaging import WeightAveraging
from fulldeck.training.loop import TrainingLoop
from tests.interruption import interrupt

NOISE = torch.Generator().manual_seed(3)
INPUTS = torch.randn(48, 12, generator=NOISE)
TARGETS = torch.randint(2, (48,), generator=NOISE)  # nothing to learn: validation soon gets worse


def batches(start, count=3):
    return [(INPUTS[k : k + 8], TARGETS[k : k + 8]) for k in range(start, start + 8 * count, 8)]


def training(*instructions, model=None, epochs=40, lr=0.02, **settings):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 2))
    return TrainingLoop(
        model or net,
        batches(0),
        nn.functional.cross_entropy,
        instructions=instructions,
        optimizer=lambda p: torch.optim.AdamW(p, lr=lr),
        epochs=epochs,
        device="cpu",
        **{"validation": batches(24)} | settings,
    )


def validation_loss(loop, model):
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(INPUTS[24:]), TARGETS[24:]))


def test_it_stops_after_the_patience_and_hands_over_the_best():
    loop = training(EarlyStopping(patience=4))
    best = loop.fit().eval()
    losses = [epoch["validation_loss"] for epoch in loop.history]
    assert loop.stopped == "no better loss for 4 epochs"
    assert len(losses) == losses.index(min(losses)) + 5 < 40
    assert losses[-1] > min(losses) + 0.01
    assert validation_loss(loop, best) == pytest.approx(min(losses), abs=1e-5)
    figures = loop.reported["early_stopping"]
    assert figures["epochs"] == {"before": 40, "after": len(losses)}
    assert figures["best_epoch"] == {"after": losses.index(min(losses)) + 1}
    assert figures["validation_loss"] == {"before": losses[-1], "after": min(losses)}


def test_the_best_is_handed_over_also_after_all_epochs():
    loop = training(EarlyStopping(patience=1000), epochs=25)
    best = loop.fit().eval()
    losses = [epoch["validation_loss"] for epoch in loop.history]
    assert loop.stopped is None
    assert validation_loss(loop, best) == pytest.approx(min(losses), abs=1e-5) != losses[-1]


def test_without_restore_the_last_weights_are_handed_over():
    loop = training(EarlyStopping(patience=3, restore_best=False))
    last = loop.fit().eval()
    assert validation_loss(loop, last) == pytest.approx(loop.history[-1]["validation_loss"], abs=1e-5)


@pytest.mark.parametrize("kind", ["ema", "swa", "lawa"])
def test_with_averaging_the_best_average_is_judged_and_handed_over(kind):
    average = WeightAveraging(kind=kind, decay=0.9, start=0.0)
    loop = training(average, EarlyStopping(patience=4))
    best = loop.fit().eval()
    losses = [epoch["validation_loss"] for epoch in loop.history]
    assert losses[-1] > min(losses)
    assert validation_loss(loop, best) == pytest.approx(min(losses), abs=1e-5)


def test_last_weights_that_are_better_than_every_average_are_handed_over():
    average = WeightAveraging(decay=0.999, decay_warmup=False)
    loop = training(average, EarlyStopping(patience=9), epochs=6, validation=batches(0))
    last: dict[str, torch.Tensor] = {}
    loop.on("step_end", lambda batch: last.update({n: p.clone() for n, p in loop.model.named_parameters()}))
    handed_over = loop.fit()
    # Not the average, which lags behind and was judged best.
    assert all(torch.equal(p, last[name]) for name, p in handed_over.named_parameters())
    told = loop.reported["early_stopping"]["validation_loss"]["after"]
    assert told == loop.reported["weight_averaging"]["validation_loss"]["before"]
    assert told < min(epoch["validation_loss"] for epoch in loop.history)


def test_before_the_average_is_settled_the_best_would_be_lost():
    # Why early_stopping stands after weight_averaging.
    loop = training(EarlyStopping(patience=4), WeightAveraging(decay=0.9))
    wrong = loop.fit().eval()
    assert validation_loss(loop, wrong) > min(epoch["validation_loss"] for epoch in loop.history) + 1e-3


def test_the_best_must_be_in_place_before_adapters_are_merged():
    # Why it stands before parameter_efficient_finetuning: a merge folds what is there into other tensors.
    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Linear(12, 2)
            self.delta = nn.Parameter(torch.zeros(2, 12))
            self.base.weight.requires_grad_(False)

        def forward(self, inputs):
            return self.base(inputs) + inputs @ self.delta.T

        def merge(self):
            with torch.no_grad():
                self.base.weight += self.delta
                self.delta.zero_()

    class Merges:
        def attach(self, loop):
            loop.on("hand_over", loop.model.merge)

    def handed_over(*order):
        torch.manual_seed(0)
        loop = training(model=Adapted(), lr=0.1)
        for one in order:
            loop.attach(one, type(one).__name__)
        return loop, loop.fit().eval()

    stopping = EarlyStopping(patience=4)
    loop, right = handed_over(stopping, Merges())
    _, wrong = handed_over(Merges(), stopping)
    best = min(epoch["validation_loss"] for epoch in loop.history)
    assert validation_loss(loop, right) == pytest.approx(best, abs=1e-5)
    assert not right.delta.any()
    assert wrong.delta.any()


def test_others_may_refuse_to_be_stopped():
    loop = training(EarlyStopping(patience=2))
    loop.on("stopping", lambda reason: "not before the 30th epoch" if loop.epoch < 29 else None)
    loop.fit()
    assert len(loop.history) == 30


def test_a_changed_model_begins_anew():
    class Grows:
        def attach(self, loop):
            def operate(model):
                model.register_parameter("gain", nn.Parameter(torch.ones(1)))

            change = loop.surgery(operate)
            loop.on("epoch_end", lambda: change() if loop.epoch == 20 else None)

    loop = training(epochs=26)
    loop.attach(Grows(), "grows")
    loop.on("stopping", lambda reason: "the model grows first" if loop.epoch < 21 else None)
    loop.attach(EarlyStopping(patience=3), "early_stopping")
    model = loop.fit()
    assert loop.reported["early_stopping"]["best_epoch"]["after"] > 21
    assert hasattr(model, "gain")


def test_a_stop_before_the_schedule_has_fallen_is_noted():
    stopped = training(EarlyStopping(patience=3), LrScheduler())
    stopped.fit()
    assert [note.split(";")[0] for note in stopped.notes if "early_stopping" in note]
    constant = training(EarlyStopping(patience=3), LrScheduler(kind="constant"))
    constant.fit()
    assert not constant.notes


@pytest.mark.parametrize("step", [13, 20])
def test_resume_is_bit_exact(step, tmp_path):
    instructions = (WeightAveraging(decay=0.8), EarlyStopping(patience=6))
    expected = training(*instructions)
    whole = expected.fit().state_dict()
    interrupt(training(*instructions, checkpoints=tmp_path, checkpoint_every=2), step)
    resumed = training(*instructions, checkpoints=tmp_path, checkpoint_every=2)
    state = resumed.fit(resume=True).state_dict()
    assert all(torch.equal(whole[name], state[name]) for name in whole)
    assert resumed.history == expected.history
    assert resumed.reported == expected.reported


def test_a_named_metric_has_its_direction():
    right = {"metrics": {"accuracy": lambda o, t: float((o.argmax(1) == t).float().mean())}}
    loop = training(EarlyStopping(metric="accuracy", patience=5), **right)
    loop.fit()
    values = [epoch["validation_accuracy"] for epoch in loop.history]
    assert loop.reported["early_stopping"]["best_epoch"]["after"] == values.index(max(values)) + 1


@pytest.mark.parametrize(
    ("chosen", "settings", "message"),
    [
        (EarlyStopping(), {"validation": None}, "needs validation data"),
        (
            EarlyStopping(metric="acuracy"),
            {"metrics": {"accuracy": lambda o, t: 1.0}},
            'no metric "acuracy"; did you mean accuracy',
        ),
    ],
)
def test_refusals_say_what_to_write(chosen, settings, message):
    with pytest.raises(BadInput, match=message):
        training(chosen, **settings).fit()


def test_what_is_a_gain():
    assert not plateaued([3, 2, 1], patience=1)
    assert plateaued([1, 2], patience=1)
    assert plateaued([1.0, 0.99, 0.98], patience=2, min_delta=0.1)
    assert not plateaued([1.0, 0.99, 0.85], patience=2, min_delta=0.1)
    assert plateaued([1, 1, 1], patience=2, mode="max")
    assert not plateaued([], patience=1)
    assert plateaued([math.nan, math.nan], patience=2)
    assert is_best([2, 1])
    assert not is_best([2, 2])
    assert not is_best([math.nan])
    assert is_best([math.nan, 5.0])
    assert is_best([1, 2], mode="max")


@contextmanager
def filled(model, value):
    for tensor in model.state_dict().values():
        tensor.fill_(value)
    yield


def test_the_copy_has_buffers_and_frozen_parameters_too():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    best = BestWeights(model)
    best.take()
    with filled(model, 7):
        best.put_back()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
