import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fulldeck.errors import BadInput, RunFailed
from fulldeck.instructions.training.amp_optimizer import OVERFLOW, AmpOptimizer
from fulldeck.instructions.training.gradient_stabilization import (
    GradientStabilization,
    clip_gradients,
    first_fault,
)
from fulldeck.instructions.training.gradient_stabilization.guard import NOT_FINITE, SPIKE
from fulldeck.instructions.training.gradient_stabilization.spikes import RunningQuantile
from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.instructions.training.weight_averaging import WeightAveraging
from fulldeck.training.loop import TrainingLoop
from tests.interruption import interrupt

PLACES = ("host", "device")


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))


def batches(count=30):
    inputs = torch.randn(count, 8, 5, generator=torch.Generator().manual_seed(0))
    return [(batch, (batch.sum(1) > 0).long()) for batch in inputs]


def training(*instructions, spoil=None, lr=0.01, **settings):
    """`spoil` maps a step to a function of its inputs."""
    loop = TrainingLoop(
        settings.pop("model", None) or model(),
        batches(),
        nn.functional.cross_entropy,
        instructions=instructions,
        optimizer=settings.pop("optimizer", lambda p: torch.optim.AdamW(p, lr=lr, fused=True)),
        device="cpu",
        **{"epochs": 2} | settings,
    )

    def corrupt(batch):
        if loop.step in (spoil or {}):
            batch.inputs = spoil[loop.step](batch.inputs)

    loop.on("batch_start", corrupt)
    return loop


def huge(inputs):
    return inputs * -1e4  # and on the wrong side


def nan(inputs):
    return inputs * float("nan")


def unnormalised():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))


def state(loop):
    return {name: value.clone() for name, value in loop.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_norm_clipping_is_torchs():
    ours, theirs = model(), model()
    for net in (ours, theirs):
        net(torch.full((4, 5), 9.0)).pow(2).sum().backward()
    norm = clip_gradients(ours.parameters(), "norm", 0.1)
    assert norm == nn.utils.clip_grad_norm_(theirs.parameters(), 0.1) > 0.1
    assert all(
        torch.equal(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    )


def test_value_clipping_cuts_each_element():
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.tensor([-5.0, 0.1, 5.0])
    clip_gradients([weight], "value", 0.5)
    assert weight.grad.tolist() == pytest.approx([-0.5, 0.1, 0.5])


def test_adaptive_clipping_is_relative_to_each_row_of_weights():
    weight = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0], [30.0, 40.0]]))
    weight.grad = torch.ones(3, 2)
    clip_gradients([weight], "adaptive", 0.1)
    norms = weight.grad.norm(dim=1).tolist()
    assert norms == pytest.approx([0.5, 1e-4, math.sqrt(2)])


def test_an_unknown_clip_is_refused():
    with pytest.raises(BadInput, match=r"write limit=1\.0"):
        clip_gradients([], 1.0)
    with pytest.raises(BadInput, match='unknown clip "norms"; did you mean norm'):
        clip_gradients([], "norms")


@pytest.mark.parametrize("clip", ["norm", "value", "adaptive", "none"])
def test_in_the_loop_the_optimizer_sees_clipped_gradients(clip):
    norms, values = [], []
    loop = training(GradientStabilization(clip=clip, limit=0.05), epochs=1)
    loop.on("before_step", lambda b: norms.append(max(float(p.grad.norm()) for p in loop.parameters())))
    loop.on("before_step", lambda b: values.append(max(float(p.grad.abs().max()) for p in loop.parameters())))
    loop.fit()
    if clip == "norm":
        assert max(norms) < 0.051
        change = loop.reported["gradient_stabilization"]["largest_gradient_norm"]
        assert change["before"] > change["after"] == pytest.approx(0.05)
    elif clip == "none":
        assert max(values) > 0.2
    else:
        assert max(values) < (0.051 if clip == "value" else 0.1)


@pytest.mark.parametrize("decide", PLACES)
@pytest.mark.parametrize(("spoil", "reason"), [(huge, SPIKE), (nan, NOT_FINITE)])
def test_a_bad_step_leaves_no_trace(decide, spoil, reason):
    # Without batch-norm, whose output forgets the size of its input.
    loop = training(GradientStabilization(decide=decide), spoil={40: spoil}, model=unnormalised())
    before, after = [], []
    loop.on("batch_start", lambda batch: before.append(state(loop)) if loop.step == 40 else None)
    loop.on("batch_start", lambda batch: after.append(state(loop)) if loop.step == 41 else None)
    loop.fit()
    assert same(before[0], after[0])
    assert loop.skipped == {reason: 1}
    assert loop.optimizers[0].state[loop.parameters()[0]]["step"] == 59
    assert all(math.isfinite(epoch["loss"]) for epoch in loop.history)


@pytest.mark.parametrize("decide", PLACES)
def test_batch_norm_statistics_of_a_bad_batch_are_forgotten(decide):
    loop = training(GradientStabilization(decide=decide), spoil={40: nan})
    trained = loop.fit()
    assert all(value.isfinite().all() for value in trained.state_dict().values())
    assert trained[1].num_batches_tracked == 59


def test_without_it_a_bad_batch_stays_in_the_statistics():
    # Why it is not enough that a step is skipped.
    loop = training(spoil={40: nan})
    loop.on("before_step", lambda batch: "skipped on purpose" if loop.step == 40 else None)
    assert not loop.fit()[1].running_mean.isfinite().all()


def test_both_places_train_alike():
    one, other = (
        training(GradientStabilization(decide=decide), spoil={30: huge, 45: nan}, model=unnormalised())
        for decide in PLACES
    )
    assert same(one.fit().state_dict(), other.fit().state_dict())
    assert one.skipped == other.skipped == {SPIKE: 1, NOT_FINITE: 1}


def test_an_optimizer_that_cannot_leave_out_a_step_is_decided_for_and_told():
    loop = training(
        GradientStabilization(decide="device"),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.01),
        spoil={40: nan},
    )
    loop.fit()
    assert loop.skipped == {NOT_FINITE: 1}
    assert "reads one number from the device at every step" in loop.notes[0]


def test_optimizers_are_left_as_they_were():
    loop = training(GradientStabilization(decide="device"))
    loop.fit()
    assert not {"found_inf", "grad_scale"} & set(vars(loop.optimizers[0]))


def test_spikes_pass_once_they_are_the_rule():
    later = dict.fromkeys(range(30, 60), huge)
    loop = training(GradientStabilization(window=20), spoil=later, model=unnormalised())
    loop.fit()
    assert 1 <= loop.skipped[SPIKE] <= 3


def test_schedule_and_average_do_not_count_a_bad_step():
    loop = training(GradientStabilization(), LrScheduler(), WeightAveraging(), spoil={40: nan, 41: nan})
    loop.fit()
    assert loop.updates == 58
    assert loop.states["lr_scheduler"].schedulers[0].last_epoch == 58
    assert loop.states["weight_averaging"].count == 58


@pytest.mark.parametrize("decide", PLACES)
def test_bad_data_is_named(decide):
    loop = training(GradientStabilization(decide=decide), spoil={40: nan, 50: nan})
    loop.fit()
    assert loop.notes == [
        "gradient_stabilization: first to go wrong was what goes into 0 (Linear) (at step 40, which was skipped)"
    ]


class Overflows(nn.Module):
    """Its output is infinite at some steps, though all that it is given is finite."""

    def __init__(self, at):
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, inputs):
        self.calls += 1
        return inputs * (float("inf") if self.calls > self.at else 1.0)


def test_the_first_module_whose_output_went_bad_is_named():
    net = unnormalised()
    net.insert(2, nn.Sequential(nn.Identity(), Overflows(at=40)))
    loop = training(GradientStabilization(patience=4), model=net)
    with pytest.raises(RunFailed) as failed:
        loop.fit()
    assert "not finite for 4 steps up to step" in str(failed.value)
    assert "the first to go wrong is the output of 2.1 (Overflows)" in str(failed.value)
    assert all(p.isfinite().all() for p in loop.model.parameters())


def test_a_nan_in_one_parameter_group_is_named():
    def groups(parameters):
        first, *others = parameters
        return torch.optim.AdamW([{"params": [first], "lr": 0.1}, {"params": others}], fused=True)

    loop = training(GradientStabilization(), optimizer=groups)
    weight = loop.model[3].weight

    def poison(part):
        if loop.step == 40:
            weight.grad[0, 0] = float("nan")

    loop.on("after_backward", poison)
    loop.fit()
    assert loop.skipped == {NOT_FINITE: 1}
    assert "first to go wrong was the gradient of 3.weight" in loop.notes[0]


def test_weights_that_are_bad_already_end_the_training():
    loop = training(GradientStabilization())
    with torch.no_grad():
        loop.model[3].bias.fill_(float("nan"))
    with pytest.raises(RunFailed, match=r"the weights 3\.bias are not finite at step 0"):
        loop.fit()


def test_a_nested_output_is_looked_into():
    class Pair(nn.Module):
        def forward(self, inputs):
            return {"a": [inputs, (inputs / 0,)]}

    assert first_fault(Pair(), lambda: None) is None
    pair = Pair()
    assert first_fault(pair, lambda: pair(torch.ones(1))) == "the output of the model (Pair)"


def test_an_overflow_of_the_scaled_loss_is_not_taken_for_a_fault():
    def overflow(loop):
        def add(part):
            if loop.step in (30, 40):
                part.terms.append(part.outputs.float().sum() * 1e6)

        loop.on("after_forward", add)
        return loop

    right = overflow(training(AmpOptimizer(dtype="float16"), GradientStabilization()))
    right.fit()
    assert right.skipped == {OVERFLOW: 2}
    assert not right.notes
    # Why it stands after amp_optimizer: before it, the overflow counts as a fault and the scale stays.
    wrong = overflow(training(GradientStabilization(), AmpOptimizer(dtype="float16")))
    wrong.fit()
    assert set(wrong.skipped) == {NOT_FINITE}
    assert wrong.states["amp_optimizer"].get_scale() > right.states["amp_optimizer"].get_scale()


@pytest.mark.parametrize("decide", PLACES)
@pytest.mark.parametrize("step", [25, 47])
def test_resume_is_bit_exact(decide, step, tmp_path):
    def built(folder):
        return training(
            GradientStabilization(decide=decide, limit=0.5),
            spoil={22: huge, 35: nan, 50: huge},
            model=unnormalised(),
            checkpoints=folder,
            checkpoint_every=3 if folder else None,
        )

    expected = built(None)
    whole = expected.fit().state_dict()
    interrupt(built(tmp_path), step)
    resumed = built(tmp_path)
    assert same(whole, resumed.fit(resume=True).state_dict())
    assert resumed.skipped == expected.skipped
    assert resumed.reported == expected.reported
    assert resumed.notes == expected.notes


def test_a_quantile_is_had_without_waiting_for_the_device():
    with FakeTensorMode():  # in it, to read a value raises
        running = RunningQuantile(0.9, window=32)
        for _ in range(20):
            running.add(torch.ones(()))
        assert running.value().shape == ()


def test_the_running_quantile_is_that_of_the_last_finite_values():
    running = RunningQuantile(0.9, window=21)
    for value in (1e9, *range(19)):
        assert running.value() is None
        running.add(torch.tensor(float(value)))
    running.add(torch.tensor(float("nan")))
    for value in (19.0, 20.0):
        running.add(torch.tensor(value))
    # 21 places: 1..20 (the first two were pushed out) and one that was no number.
    assert running.value() == 18
