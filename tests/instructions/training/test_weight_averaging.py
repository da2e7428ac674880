import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from fulldeck.errors import BadInput
from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.instructions.training.weight_averaging import WeightAveraging, average_weights
from fulldeck.training.loop import TrainingLoop
from tests.interruption import interrupt


def batches(count=6, size=16):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, size, 3, 4, 4, generator=generator)
    return [(batch, (batch.mean((1, 2, 3)) > 0).long()) for batch in inputs]


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 2)
    )


def loop(*instructions, loader=None, **settings):
    settings = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1), "device": "cpu", **settings}
    return TrainingLoop(
        model(),
        batches() if loader is None else loader,
        nn.functional.cross_entropy,
        instructions=instructions,
        **settings,
    )


def equal(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def states_of(training: TrainingLoop) -> list[nn.Module]:
    """Copies of the model after each step; registered last, so that it sees what the average sees."""
    copies: list[nn.Module] = []
    training.on("step_end", lambda batch: copies.append(copy.deepcopy(training.model)))
    return copies


def test_ema_is_what_torch_computes_and_what_fit_returns():
    training = loop(WeightAveraging(decay=0.9, decay_warmup=False), epochs=2)
    states = states_of(training)
    fitted = training.fit()
    expected = AveragedModel(states[0], multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for state in states:
        expected.update_parameters(state)
    torch.testing.assert_close(dict(fitted.named_parameters()), dict(expected.module.named_parameters()))
    torch.testing.assert_close(fitted[1].running_var, expected.module[1].running_var)
    assert not torch.equal(fitted[0].weight, states[-1][0].weight)


def test_the_decay_grows_with_the_number_of_states():
    line = nn.Linear(1, 1, bias=False)
    average = average_weights(line, decay=0.999)
    expected = None
    for count in range(8):
        nn.init.constant_(line.weight, float(count))
        average.update()
        decay = (1 + count) / (10 + count)
        expected = 0.0 if expected is None else decay * expected + (1 - decay) * count
    with average.swapped():
        assert line.weight.item() == pytest.approx(expected)


def test_swa_is_the_mean_of_one_state_an_epoch_with_recalculated_statistics():
    training = loop(WeightAveraging(kind="swa", start=0.5), epochs=6)
    states = states_of(training)
    fitted = training.fit()
    chosen = [states[6 * epoch - 1] for epoch in (4, 5, 6)]
    for name, parameter in fitted.named_parameters():
        mean = sum(dict(state.named_parameters())[name] for state in chosen) / 3
        torch.testing.assert_close(parameter, mean)
    expected = copy.deepcopy(fitted)
    update_bn(batches(), expected)
    torch.testing.assert_close(fitted[1].running_mean, expected[1].running_mean)
    torch.testing.assert_close(fitted[1].running_var, expected[1].running_var)


def test_lawa_is_the_mean_of_the_last_states():
    training = loop(WeightAveraging(kind="lawa", window=2, every=3, batch_norm="average"), epochs=2)
    states = states_of(training)
    fitted = training.fit()
    for name, parameter in fitted.named_parameters():
        first, second = (dict(states[step].named_parameters())[name] for step in (8, 11))
        torch.testing.assert_close(parameter, (first + second) / 2)


@pytest.mark.parametrize("kind", ["ema", "swa", "lawa"])
def test_training_itself_is_untouched(kind):
    """Evaluation swaps, recalculates statistics and draws random numbers; the weights must not notice."""
    chosen = WeightAveraging(kind=kind, start=0.0, batch_norm="recalculate")
    plain, averaged = (
        loop(*some, epochs=3, validation=batches(1), loader=shuffled()) for some in ((), (chosen,))
    )
    plain_states, averaged_states = states_of(plain), states_of(averaged)
    plain.fit()
    averaged.fit()
    assert len(plain_states) == 18
    assert all(equal(one, other) for one, other in zip(plain_states, averaged_states, strict=True))


def shuffled():
    inputs = torch.cat([inputs for inputs, _ in batches()])
    targets = torch.cat([targets for _, targets in batches()])
    dataset = torch.utils.data.TensorDataset(inputs, targets)
    return torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=True)


def test_evaluation_sees_what_is_shipped():
    training = loop(WeightAveraging(decay=0.9, unless_worse=False), epochs=2, validation=batches(2))
    shipped = training.fit().eval()
    inputs = torch.cat([inputs for inputs, _ in batches(2)])
    targets = torch.cat([targets for _, targets in batches(2)])
    loss = nn.functional.cross_entropy(shipped(inputs), targets).item()
    assert training.history[-1]["validation_loss"] == pytest.approx(loss, rel=1e-5)
    assert training.evaluate(batches(2))["loss"] == pytest.approx(loss, rel=1e-5)
    reported = training.reported["weight_averaging"]["validation_loss"]
    assert reported["after"] == pytest.approx(loss, rel=1e-5)
    assert reported["before"] != pytest.approx(loss, rel=1e-3)


def test_an_average_that_is_worse_is_not_shipped():
    """A slow average of a model that still learns lags behind it."""
    slow = {"decay": 0.9999, "decay_warmup": False}
    training = loop(WeightAveraging(**slow), epochs=4, validation=batches(2))
    last = {}
    training.on("epoch_end", lambda: last.update(copy.deepcopy(training.model.state_dict())))
    shipped = training.fit().state_dict()
    assert all(torch.equal(shipped[name], last[name]) for name in last)
    assert any("this average is not handed over" in note for note in training.notes)
    figures = training.reported["weight_averaging"]["validation_loss"]
    assert figures["after"] == figures["before"] < training.history[-1]["validation_loss"]


def test_averaging_helps_where_the_rate_stays_high():
    """Least squares with noisy targets: the last iterate scatters around the solution."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(10, 1, generator=generator)
    inputs = torch.randn(200, 8, 10, generator=generator)
    noisy = [(x, x @ truth + torch.randn(8, 1, generator=generator)) for x in inputs]

    def error(*instructions):
        torch.manual_seed(0)
        training = TrainingLoop(
            nn.Linear(10, 1, bias=False),
            noisy,
            nn.functional.mse_loss,
            instructions=instructions,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.05),
            device="cpu",
        )
        return (training.fit().weight - truth.T).norm().item()

    assert error(WeightAveraging()) < 0.6 * error()


def test_a_skipped_step_is_not_averaged():
    training = loop(WeightAveraging(kind="lawa", window=100, every=1, batch_norm="average"))
    training.on("before_step", lambda batch: "on purpose" if training.step in (1, 2) else None)
    states = states_of(training)
    fitted = training.fit()
    assert len(states) == 4
    mean = sum(state[0].weight for state in states) / 4
    torch.testing.assert_close(fitted[0].weight, mean)


@pytest.mark.parametrize("kind", ["ema", "swa", "lawa"])
def test_resume_is_bit_exact(kind, tmp_path):
    def training(folder):
        return loop(
            WeightAveraging(kind=kind, start=0.3, window=3),
            loader=shuffled(),
            epochs=4,
            validation=batches(1),
            checkpoints=folder,
            checkpoint_every=4 if folder else None,
        )

    whole = training(None).fit()
    interrupt(training(tmp_path), 17)
    assert equal(whole, training(tmp_path).fit(resume=True))


def test_a_changed_model_starts_a_new_average():
    training = loop(WeightAveraging(decay=0.9), epochs=2)

    class Widen:
        def attach(self, loop):
            self.operate = loop.surgery(lambda model: model.append(nn.Linear(2, 2)))
            loop.on("epoch_start", lambda: self.operate() if loop.epoch == 1 else None)

    Widen().attach(training)
    states = states_of(training)
    fitted = training.fit()
    expected = average_weights(states[6], decay=0.9)
    for state in states[6:]:
        states[6].load_state_dict(state.state_dict())
        expected.update()
    with expected.swapped() as averaged:
        torch.testing.assert_close(dict(fitted.named_parameters()), dict(averaged.named_parameters()))


def test_frozen_weights_and_infinite_buffers_stay_as_they_are():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    net.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
    average = average_weights(net)
    for _ in range(3):
        average.update()
    with average.swapped():
        assert not net.mask.isnan().any()
    assert "0.weight" not in average.state_dict()["averages"]


def test_low_precision_weights_are_averaged_in_float32():
    line = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.constant_(line.weight, 1.0)
    average = average_weights(line, decay=0.999, decay_warmup=False)
    average.update()
    nn.init.constant_(line.weight, 2.0)
    for _ in range(1000):
        average.update()
    assert average.state_dict()["averages"]["weight"].item() == pytest.approx(2 - 0.999**1000)
    with average.swapped():
        assert line.weight.dtype == torch.bfloat16


def test_an_error_within_the_swap_leaves_the_weights_in_place():
    line = nn.Linear(1, 1)
    average = average_weights(line)
    average.update()
    nn.init.zeros_(line.weight)
    with pytest.raises(RuntimeError, match="shapes"), average.swapped() as averaged:
        averaged(torch.zeros(7))
    assert line.weight.item() == 0


def test_a_loader_without_length():
    class Stream:
        def __iter__(self):
            return iter(batches())

    assert WeightAveraging().attach(loop(loader=Stream())) is None
    with pytest.raises(BadInput, match="set every"):
        loop(WeightAveraging(kind="lawa"), loader=Stream())


class RestoreBest:
    """Stands in for early stopping: deploys the best of the evaluated models."""

    def attach(self, loop):
        self.loop, self.best, self.loss = loop, None, float("inf")
        self.over = False
        loop.on("evaluation", self.look)
        loop.on("hand_over", lambda: setattr(self, "over", True))
        loop.deploy_with(self.put)

    def look(self, metrics):
        if metrics["validation_loss"] < self.loss:
            self.loss = metrics["validation_loss"]
            with self.loop.deployed() as model:
                self.best = copy.deepcopy(model.state_dict())

    @contextmanager
    def put(self):
        if self.over:
            self.loop.model.load_state_dict(self.best)
        yield


@pytest.mark.parametrize("average_first", [True, False])
def test_what_restores_the_best_gets_and_keeps_the_best_average(average_first):
    def diverge(training):
        training.on(
            "epoch_start",
            lambda: training.epoch == 2 and nn.init.constant_(training.model[-1].weight, 9.0),
        )

    average, best = WeightAveraging(decay=0.5), RestoreBest()
    training = loop(epochs=3, validation=batches(1))
    diverge(training)
    for instruction in (average, best) if average_first else (best, average):
        instruction.attach(training)
    fitted = training.fit().eval()
    inputs, targets = batches(1)[0]
    shipped = nn.functional.cross_entropy(fitted(inputs), targets).item()
    assert shipped == pytest.approx(best.loss, rel=1e-4)
    assert best.loss < training.history[-1]["validation_loss"]


class Adapter(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.delta = base, nn.Parameter(torch.zeros_like(base.weight))

    def forward(self, x):
        return nn.functional.linear(x, self.base.weight + self.delta, self.base.bias)


class Merge:
    """Stands in for adapters: trains a delta and adds it to the base weights at hand-over."""

    def attach(self, loop):
        loop.model[-1] = Adapter(loop.model[-1])
        loop.on("hand_over", lambda: self.merge(loop.model))

    def merge(self, model):
        adapter = model[-1]
        with torch.no_grad():
            adapter.base.weight += adapter.delta
        model[-1] = adapter.base


@pytest.mark.parametrize("right_order", [True, False])
def test_it_goes_before_what_merges_adapters(right_order):
    """Why the card says so: in the other order the delta is lost."""
    training = loop(epochs=2)
    average, adapters = WeightAveraging(decay=0.5, decay_warmup=False), Merge()
    for instruction in (average, adapters) if right_order else (adapters, average):
        instruction.attach(training)
    states = states_of(training)
    fitted = training.fit()
    weight = sum(0.5 ** min(12 - k, 11) * (s[-1].base.weight + s[-1].delta) for k, s in enumerate(states))
    assert torch.allclose(fitted[-1].weight, weight, atol=1e-6) is right_order


@pytest.mark.parametrize(("kind", "noted"), [("cosine", True), ("one_cycle", True), ("constant", False)])
def test_a_rate_that_ends_near_zero_is_noted(kind, noted):
    training = loop(LrScheduler(kind=kind), WeightAveraging(), epochs=5, validation=batches(2))
    training.fit()
    assert any("where the learning rate ends low" in note for note in training.notes) == noted


def test_an_unknown_kind_is_refused_in_one_line():
    with pytest.raises(BadInput) as refused:
        average_weights(model(), "emma")
    assert str(refused.value) == 'unknown kind "emma" of average; did you mean ema?; there is ema, swa, lawa'
