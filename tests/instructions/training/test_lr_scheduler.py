import math

import pytest
import torch
from torch import nn

from fulldeck.errors import BadInput
from fulldeck.instruction import Instruction
from fulldeck.instructions.training.lr_scheduler import (
    LrScheduler,
    lr_multiplier,
    scale_lr_with_batch,
    schedule,
)
from fulldeck.training_loop import TrainingLoop

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
    interrupted = loop(tmp_path)

    def interrupt(batch):
        if interrupted.step == 10:
            raise KeyboardInterrupt

    interrupted.on("batch_start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit()
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
