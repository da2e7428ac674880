import math

import pytest
import torch
from torch import nn

from fulldeck.errors import BadInput
from fulldeck.instruction import Instruction
from fulldeck.instructions.training.gradient_stabilization import GradientStabilization
from fulldeck.instructions.training.lr_scheduler import (
    LrScheduler,
    lr_multiplier,
    range_test,
    scale_lr_with_batch,
    schedule,
    scheduled_run,
)
from fulldeck.instructions.training.weight_averaging import WeightAveraging
from fulldeck.pipeline.run import run
from fulldeck.training.loop import TrainingLoop
from tests.interruption import interrupt

FORMS = ("cosine", "one_cycle", "warmup_stable_decay", "linear", "polynomial", "constant")


def batches(count=6, size=8):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, size, 5, generator=generator)
    return [(batch, (batch.sum(1) > 0).long()) for batch in inputs]


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))


class Rates:
    """Stands in for an instruction, and writes the rate of each step down."""

    def __init__(self, skip=()):
        self.skip = skip
        self.seen = []

    def attach(self, loop):
        loop.on("before_step", lambda batch: self.note(loop))

    def note(self, loop):
        if loop.step in self.skip:
            return "skipped on purpose"
        self.seen.append([group["lr"] for optimizer in loop.optimizers for group in optimizer.param_groups])


def train(instruction: Instruction, *, skip=(), loader=None, **settings):
    rates = Rates(skip)
    loop = TrainingLoop(
        model(),
        batches() if loader is None else loader,
        nn.functional.cross_entropy,
        instructions=[instruction],
        device="cpu",
        **{"optimizer": lambda p: torch.optim.SGD(p, lr=0.1), **settings},
    )
    rates.attach(loop)
    loop.fit()
    return loop, [step[0] for step in rates.seen]


def test_cosine_in_the_loop_follows_the_closed_form():
    loop, rates = train(LrScheduler(warmup_steps=2, min_lr_ratio=0.1), epochs=2)
    expected = [0.1 / 3, 0.2 / 3]
    expected += [0.1 * (0.1 + 0.9 * (1 + math.cos(math.pi * k / 10)) / 2) for k in range(10)]
    assert rates == pytest.approx(expected)
    assert loop.reported["lr_scheduler"]["learning_rate"] == pytest.approx(
        {"before": 0.1, "after": expected[-1]}
    )


@pytest.mark.parametrize(
    ("kind", "done", "factor"),
    [
        ("constant", 0.9, 1.0),
        ("linear", 0.25, 0.75),
        ("polynomial", 0.5, 0.25),
        ("cosine", 0.5, 0.5),
        ("warmup_stable_decay", 0.8, 1.0),
        ("warmup_stable_decay", 0.85, 0.5),
    ],
)
def test_forms(kind, done, factor):
    rate = lr_multiplier(kind, 1000, decay=0.2)
    assert rate(round(done * 1000)) == pytest.approx(factor)


@pytest.mark.parametrize("kind", ["linear", "polynomial", "cosine", "warmup_stable_decay"])
def test_every_form_ends_at_the_smallest_rate_and_stays_there(kind):
    rate = lr_multiplier(kind, 50, warmup_steps=5, min_lr_ratio=0.2)
    assert rate(5) == pytest.approx(1.0)
    assert rate(50) == pytest.approx(0.2)
    assert rate(500) == pytest.approx(0.2)


def test_one_cycle_peaks_at_the_base_rate_and_cycles_the_momentum():
    momenta = []

    class Momenta(Rates):
        def note(self, loop):
            momenta.append(loop.optimizers[0].param_groups[0]["betas"][0])

    loop = TrainingLoop(
        model(),
        batches(10),
        nn.functional.cross_entropy,
        instructions=[LrScheduler(kind="one_cycle")],
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.01),
        device="cpu",
        epochs=2,
    )
    rates = Rates()
    rates.attach(loop)
    Momenta().attach(loop)
    loop.fit()
    seen = [rate[0] for rate in rates.seen]
    assert max(seen) == pytest.approx(0.01)
    assert seen.index(max(seen)) == 6
    assert seen[0] == pytest.approx(0.01 / 25)
    assert seen[-1] < 1e-6
    assert min(momenta) == pytest.approx(0.85)


def test_one_cycle_leaves_plain_sgd_without_momentum():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    schedule(optimizer, "one_cycle", 10)
    assert optimizer.param_groups[0]["momentum"] == 0


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("total", [1, 2, 3, 10])
@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_short_trainings_have_finite_rates(kind, total, warmup):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    scheduler = schedule(optimizer, kind, total, warmup_steps=warmup)
    for _ in range(total):
        assert 0 <= optimizer.param_groups[0]["lr"] <= 0.1 + 1e-12
        optimizer.step()
        if scheduler.last_epoch < total - 1:
            scheduler.step()


def test_each_group_keeps_its_own_base_rate():
    def grouped(parameters):
        first, *others = parameters
        return torch.optim.SGD([{"params": [first], "lr": 1.0}, {"params": others, "lr": 0.01}], lr=0.1)

    rates = Rates()
    loop = TrainingLoop(
        model(),
        batches(),
        nn.functional.cross_entropy,
        instructions=[LrScheduler(kind="linear", warmup=0.0)],
        optimizer=grouped,
        device="cpu",
    )
    rates.attach(loop)
    loop.fit()
    assert [high / low for high, low in rates.seen] == pytest.approx([100] * 6)
    assert rates.seen[3] == pytest.approx([0.5, 0.005])


@pytest.mark.parametrize("kind", ["linear", "one_cycle"])
def test_a_skipped_step_does_not_advance(kind):
    chosen = LrScheduler(kind=kind)
    _, all_rates = train(chosen)
    loop, rates = train(chosen, skip={1, 2})
    assert loop.skipped == {"skipped on purpose": 2}
    assert rates == all_rates[:4]


def test_by_epoch_the_rate_is_constant_within_an_epoch():
    _, rates = train(LrScheduler(kind="linear", unit="epoch", warmup=0.0), epochs=4)
    assert rates == pytest.approx([0.1] * 6 + [0.075] * 6 + [0.05] * 6 + [0.025] * 6)


def test_plateau_lowers_the_rate_when_the_metric_stands_still():
    chosen = LrScheduler(kind="plateau", metric="still", mode="max", patience=1, factor=0.5)
    _, rates = train(chosen, epochs=6, validation=batches(1), metrics={"still": lambda o, t: 1.0})
    assert rates[::6] == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05, 0.025])


def test_plateau_warms_up_first():
    chosen = LrScheduler(kind="plateau", metric="still", mode="max", patience=0, factor=0.5, warmup_steps=8)
    _, rates = train(chosen, epochs=4, validation=batches(1), metrics={"still": lambda o, t: 1.0})
    assert rates[:9] == pytest.approx([0.1 * (k + 1) / 9 for k in range(9)])
    assert rates[12] == pytest.approx(0.1)
    assert rates[18] == pytest.approx(0.05)


@pytest.mark.parametrize("kind", [*FORMS, "plateau"])
@pytest.mark.parametrize("unit", ["step", "epoch"])
def test_resume_is_bit_exact(kind, unit, tmp_path):
    chosen = LrScheduler(kind=kind, unit=unit, patience=0, warmup=0.2, metric="still", mode="max")

    def loop(folder):
        return TrainingLoop(
            model(),
            batches(),
            nn.functional.cross_entropy,
            instructions=[chosen],
            optimizer=lambda p: torch.optim.AdamW(p, lr=0.05),
            epochs=3,
            validation=batches(1),
            metrics={"still": lambda o, t: 1.0},
            device="cpu",
            checkpoints=folder,
            checkpoint_every=4 if folder else None,
        )

    whole = loop(None).fit().state_dict()
    interrupt(loop(tmp_path), 10)
    resumed = loop(tmp_path).fit(resume=True).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_rate_scales_with_the_batch():
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(32, 5), torch.zeros(32, dtype=torch.long)), batch_size=16
    )
    square_root = LrScheduler(kind="constant", reference_batch=4)
    assert train(square_root, loader=loader)[1] == pytest.approx([0.2, 0.2])
    linear = square_root.replace(scaling="linear")
    assert train(linear, loader=loader)[1] == pytest.approx([0.4, 0.4])
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    assert scale_lr_with_batch(optimizer, 64, 256) == 0.5


def test_a_loader_without_length():
    class Stream:
        def __iter__(self):
            return iter(batches())

    with pytest.raises(BadInput, match="set max_steps"):
        train(LrScheduler(), loader=Stream())


@pytest.mark.parametrize(
    ("chosen", "settings", "message"),
    [
        (LrScheduler(kind="plateau"), {}, "needs validation data"),
        (LrScheduler(reference_batch=8), {}, "leave reference_batch out"),
        (
            LrScheduler(kind="plateau", metric="acuracy", mode="max"),
            {"validation": batches(1), "metrics": {"accuracy": lambda o, t: 1.0}},
            "did you mean accuracy",
        ),
    ],
)
def test_refusals_say_what_to_write(chosen, settings, message):
    with pytest.raises(BadInput, match=message):
        train(chosen, **settings)


def test_plateau_is_no_function_of_the_step():
    with pytest.raises(ValueError, match="no function of the step"):
        schedule(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), "plateau", 10)


def test_an_unknown_kind_is_refused_with_all_there_are():
    with pytest.raises(BadInput) as refused:
        schedule(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), "onecycle", 10)
    assert str(refused.value) == (
        'unknown kind "onecycle" of schedule; did you mean one_cycle?; there is cosine, one_cycle, '
        "warmup_stable_decay, linear, polynomial, constant"
    )


# By time --------------------------------------------------------------------------------------------------


def timed(monkeypatch, chosen, *, folder=None, epochs=20, stop_at=None, skip=()):
    """A loop in which every step takes a second."""
    loop = TrainingLoop(
        model(),
        batches(),
        nn.functional.cross_entropy,
        instructions=[chosen],
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        epochs=epochs,
        device="cpu",
        checkpoints=folder,
        checkpoint_every=1 if folder else None,
    )
    seconds = [0.0]
    monkeypatch.setattr(scheduled_run.time, "monotonic", lambda: seconds[0])

    def tick(batch):
        if loop.step == stop_at:
            raise KeyboardInterrupt
        seconds[0] += 1.0

    loop.on("batch_start", tick)
    rates = Rates(skip)
    rates.attach(loop)
    return loop, rates


def test_by_time_the_rate_follows_the_clock_and_training_ends_with_it(monkeypatch):
    chosen = LrScheduler(kind="linear", unit="time", seconds=20, warmup=0.0)
    loop, rates = timed(monkeypatch, chosen)
    loop.fit()
    assert loop.stopped == "the 20 seconds of lr_scheduler are over"
    assert [rate[0] for rate in rates.seen] == pytest.approx(
        [0.1 * (1 - k / 20) for k in range(20)], abs=2e-4
    )


def test_a_training_that_ends_before_its_time_is_told(monkeypatch):
    loop, _ = timed(monkeypatch, LrScheduler(unit="time", seconds=20), epochs=2)
    loop.fit()
    assert loop.notes == [
        "lr_scheduler: training ended after 12 of 20 seconds, before the rate had come to its end; "
        "give train.epochs more, or seconds less"
    ]


@pytest.mark.parametrize("kind", ["cosine", "one_cycle", "constant"])
def test_by_time_resume_goes_on_with_the_time_that_was_left(kind, tmp_path, monkeypatch):
    chosen = LrScheduler(kind=kind, unit="time", seconds=15, warmup=0.2)
    whole, rates = timed(monkeypatch, chosen)
    expected = whole.fit().state_dict()
    interrupted, _ = timed(monkeypatch, chosen, stop_at=8, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit()
    resumed, later = timed(monkeypatch, chosen, folder=tmp_path)
    state = resumed.fit(resume=True).state_dict()
    assert all(torch.equal(expected[name], state[name]) for name in expected)
    assert later.seen == rates.seen[8:]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"unit": "steps"},
            r"lr_scheduler\.unit must be one of 'step', 'epoch' or 'time', got 'steps'; did you",
        ),
        ({"unit": "time"}, "unit: time and seconds belong together; write seconds: 600"),
        ({"seconds": 60}, "unit: time and seconds belong together"),
        ({"unit": "time", "seconds": 60, "warmup_steps": 5}, "with unit: time write warmup: 0.05"),
        ({"groups": [["a", 1.0], ["a", 2.0]]}, "must name each group once"),
        ({"groups": [["a", 0.0]]}, r"lr_scheduler\.groups must .*Write pairs such as"),
    ],
)
def test_parameters_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(BadInput, match=message):
        LrScheduler(**wrong)


@pytest.mark.parametrize("kind", ["constant", "plateau"])
def test_what_needs_no_number_of_steps_works_on_a_stream(kind):
    class Stream:
        def __iter__(self):
            return iter(batches())

    train(LrScheduler(kind=kind), loader=Stream(), validation=batches(1))
    with pytest.raises(BadInput, match=f"{kind} needs to know the number of steps"):
        train(LrScheduler(kind=kind, warmup=0.1), loader=Stream(), validation=batches(1))


# Groups ---------------------------------------------------------------------------------------------------


def test_groups_learn_faster_or_slower_by_name():
    chosen = LrScheduler(kind="linear", warmup=0.0, groups=[["2", 10], ["*.bias", 0.5]])
    rates = Rates()
    loop = TrainingLoop(
        model(),
        batches(),
        nn.functional.cross_entropy,
        instructions=[chosen],
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
        device="cpu",
    )
    rates.attach(loop)
    loop.fit()
    names = {id(parameter): name for name, parameter in loop.model.named_parameters()}
    by_name = {
        names[id(p)]: group["lr"] for group in loop.optimizers[0].param_groups for p in group["params"]
    }
    first = {"0.weight": 1.0, "2.weight": 10.0, "2.bias": 10.0, "0.bias": 0.5}
    assert {name: rate / by_name["0.weight"] for name, rate in by_name.items()} == pytest.approx(first)
    assert rates.seen[0] == pytest.approx([0.01, 0.005, 0.1])
    assert rates.seen[3] == pytest.approx([0.005, 0.0025, 0.05])


def test_a_group_that_matches_nothing_offers_the_closest():
    with pytest.raises(
        BadInput, match=r'no parameter is left that matches "0\.wieght"; did you mean 0\.weight'
    ):
        train(LrScheduler(groups=[["0.wieght", 2.0]]))


# A batch of another size ----------------------------------------------------------------------------------


class Enlarges:
    """Stands in for an instruction that changes the batch, before training or in the middle of it."""

    def __init__(self, size, step=None):
        self.size, self.step = size, step

    def attach(self, loop):
        if self.step is None:
            self.enlarge(loop)
        else:
            loop.on("step_end", lambda batch: self.enlarge(loop) if loop.step == self.step else None)

    def enlarge(self, loop):
        loop.loader.batch_size = self.size


class Resizable:
    """Batches of `batch_size`; so many of them that a training never sees the end."""

    def __init__(self, batch_size):
        self.batch_size = batch_size

    def __len__(self):
        return 8

    def batches(self, epoch, skip=0):
        generator = torch.Generator().manual_seed(epoch)
        for place in range(8):
            inputs = torch.randn(self.batch_size, 5, generator=generator)
            if place >= skip:
                yield inputs, (inputs.sum(1) > 0).long()


@pytest.mark.parametrize("kind", [*FORMS, "plateau"])
@pytest.mark.parametrize(("scaling", "factor"), [("square_root", 2.0), ("linear", 4.0)])
def test_rates_follow_a_batch_that_changes(kind, scaling, factor):
    def rates_of(*others):
        rates = Rates()
        loop = TrainingLoop(
            model(),
            Resizable(4),
            nn.functional.cross_entropy,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            validation=batches(1),
            device="cpu",
        )
        loop.attach(LrScheduler(kind=kind, scaling=scaling, min_lr_ratio=0.1), "lr_scheduler")
        for other in others:
            other.attach(loop)
        rates.attach(loop)
        loop.fit()
        return loop, [step[0] for step in rates.seen]

    _, alone = rates_of()
    loop, throughout = rates_of(Enlarges(16))
    assert throughout == pytest.approx([factor * rate for rate in alone])
    assert loop.notes[0].startswith(
        "lr_scheduler: batches went from 4 to 16 samples, and rates by a factor of"
    )
    _, from_then_on = rates_of(Enlarges(16, step=3))
    assert from_then_on == pytest.approx(alone[:4] + [factor * rate for rate in alone[4:]])


def test_taken_note_of_after_the_change_the_batch_would_leave_the_rate_as_it_is():
    # Why it stands before dynamic_batch_scheduler.
    loop = TrainingLoop(model(), Resizable(4), nn.functional.cross_entropy, device="cpu")
    Enlarges(16).attach(loop)
    loop.attach(LrScheduler(kind="constant"), "lr_scheduler")
    loop.fit()
    assert loop.learning_rate() == 1e-3
    assert "dynamic_batch_scheduler" in LrScheduler.card.before


# The range test -------------------------------------------------------------------------------------------


def searched(chosen, *, lr=1e-5, folder=None, loader=None, instructions=()):
    return TrainingLoop(
        model(),
        batches() if loader is None else loader,
        nn.functional.cross_entropy,
        instructions=[chosen, *instructions],
        optimizer=lambda p: torch.optim.AdamW(p, lr=lr),
        epochs=3,
        device="cpu",
        checkpoints=folder,
        checkpoint_every=1 if folder else None,
    )


def test_the_range_test_finds_a_rate_and_its_curve_is_kept():
    loop = searched(LrScheduler(range_test=True))
    loop.fit()
    change = loop.reported["lr_scheduler"]["base_learning_rate"]
    assert change["before"] == 1e-5
    assert 1e-3 < change["after"] < 0.3
    (chart,) = loop.drawn["lr_scheduler"]
    (series,) = chart["series"]
    assert len(series["x"]) == len(series["y"]) > 20
    assert series["x"] == sorted(series["x"])
    assert loop.history[-1]["loss"] < 0.7 * loop.history[0]["loss"]


def test_but_for_the_rate_the_test_leaves_no_trace():
    found = searched(LrScheduler(range_test=True), instructions=[WeightAveraging(), GradientStabilization()])
    shipped = found.fit().state_dict()
    rate = found.reported["lr_scheduler"]["base_learning_rate"]["after"]
    told = searched(LrScheduler(), lr=rate, instructions=[WeightAveraging(), GradientStabilization()])
    expected = told.fit().state_dict()
    assert all(torch.allclose(expected[name], shipped[name], rtol=1e-5) for name in expected)
    assert found.step == told.step == found.updates
    assert found.skipped == told.skipped
    assert [epoch["loss"] for epoch in found.history] == pytest.approx([e["loss"] for e in told.history])


@pytest.mark.parametrize("kind", ["cosine", "one_cycle"])
def test_a_resumed_training_goes_on_with_the_rate_that_was_found(kind, tmp_path):
    chosen = LrScheduler(kind=kind, range_test=True, groups=[["0", 0.5]])
    whole = searched(chosen)
    expected = whole.fit().state_dict()
    interrupted = searched(chosen, folder=tmp_path)

    def interrupt(batch):
        if interrupted.epoch == 1 and interrupted.step == 10:
            raise KeyboardInterrupt

    interrupted.on("batch_start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit()
    resumed = searched(chosen, folder=tmp_path)
    state = resumed.fit(resume=True).state_dict()
    assert all(torch.equal(expected[name], state[name]) for name in expected)
    assert resumed.drawn == whole.drawn
    assert resumed.reported == whole.reported


def test_batches_that_can_be_read_once_are_refused():
    loop = searched(LrScheduler(range_test=True, unit="epoch"), loader=iter(batches()))
    with pytest.raises(BadInput, match="these can be read once only"):
        loop.fit()


def test_a_loss_that_never_falls_is_refused():
    with pytest.raises(BadInput, match="found no rate between 1e-06 and 1 at which the loss falls"):
        range_test(lambda rate: 1.0 + rate)


def test_the_range_test_on_a_known_bowl():
    # Plain gradient descent on x^2 / 2 diverges above a rate of 2.
    weight = [8.0]

    def step(rate):
        weight[0] -= rate * weight[0]
        return weight[0] ** 2 / 2

    found = range_test(step, lowest=1e-3, highest=100.0)
    assert 0.05 < found.suggestion < 2
    assert found.rates[-1] < 100


def test_the_curve_of_the_range_test_is_in_result_and_report(tmp_path):
    chosen = LrScheduler(range_test=True)
    result = run("breast_cancer", [chosen], out=tmp_path, epochs=1, threads=1)
    (entry,) = result["instructions"]
    (chart,) = entry["charts"]
    assert chart["log_x"]
    assert "Loss in the range test" in (tmp_path / "latest" / "report.html").read_text()
