import pytest
import torch
from torch import nn

from fulldeck.declared import Refused
from fulldeck.errors import BadInput, CannotAct
from fulldeck.instruction import Situation
from fulldeck.instructions.training.early_stopping import EarlyStopping
from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.instructions.training.optimizer_selection import (
    Lion,
    Muon,
    OptimizerSelection,
    decayed_parameters,
    hidden_matrices,
    make_optimizers,
    state_bytes,
    transferred,
)
from fulldeck.instructions.training.optimizer_selection.muon import orthogonalised
from fulldeck.instructions.training.weight_averaging import WeightAveraging
from fulldeck.planner import make_plan
from fulldeck.recipe.recipe import make_recipe
from fulldeck.training.loop import TrainingLoop
from tests.interruption import interrupt

KINDS = ("adamw", "muon", "lion", "schedule_free", "adamw_8bit")
INPUTS = torch.randn(64, 12, generator=torch.Generator().manual_seed(1))
TARGETS = (INPUTS[:, :3].sum(1) > 0).long()


def batches(noise=0.0):
    generator = torch.Generator().manual_seed(2)
    return [
        (INPUTS[k : k + 8] + noise * torch.randn(8, 12, generator=generator), TARGETS[k : k + 8])
        for k in range(0, 64, 8)
    ]


def network(normalised=True, width=16):
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(width)] if normalised else []
    return nn.Sequential(
        nn.Linear(12, width), *middle, nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
    )


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.004, weight_decay=0.1)


def training(*instructions, model=None, **settings):
    return TrainingLoop(
        model or network(),
        settings.pop("loader", None) or batches(),
        nn.functional.cross_entropy,
        instructions=instructions,
        **{"optimizer": adamw, "device": "cpu", "epochs": 4, "validation": batches()} | settings,
    )


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.position = nn.Parameter(torch.zeros(1, 5, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm((5, 8))
        self.convolution = nn.Conv1d(8, 8, 3)
        self.out = nn.Linear(8, 20)
        self.out.weight = self.embedding.weight


def names(model, parameters):
    chosen = {id(parameter) for parameter in parameters}
    return [name for name, parameter in model.named_parameters() if id(parameter) in chosen]


def test_weights_of_products_are_decayed_and_nothing_else():
    model = Language()
    assert names(model, decayed_parameters(model)) == [
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "convolution.weight",
    ]


def test_muon_takes_the_hidden_matrices():
    model = network()
    assert names(model, hidden_matrices(model)) == ["0.weight", "3.weight"]
    first, second = make_optimizers(model, "muon")
    assert isinstance(first, torch.optim.AdamW)
    assert isinstance(second, torch.optim.Muon)
    model = Language()
    assert names(model, hidden_matrices(model)) == [
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "convolution.weight",
    ]
    rows_apart = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.ConvTranspose2d(4, 4, 3), nn.Linear(4, 2))
    assert not hidden_matrices(rows_apart)


def test_a_convolution_takes_the_step_of_its_matrix():
    torch.manual_seed(0)
    start, *gradients = [torch.randn(8, 4, 3, 3) for _ in range(4)]
    matrix = nn.Parameter(start.flatten(1).clone())
    kernel = nn.Parameter(start.clone())
    last = nn.Parameter(start.clone(memory_format=torch.channels_last))
    optimizers = [Muon([{"params": [one]}], lr=0.1) for one in (matrix, kernel, last)]
    for gradient in gradients:
        matrix.grad, kernel.grad, last.grad = gradient.flatten(1), gradient, gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(kernel.flatten(1), matrix)
    assert torch.equal(last, kernel)


@pytest.mark.parametrize("shape", [(16, 144), (24, 30), (40, 12)])
def test_muon_is_torchs_but_for_rounding(shape):
    torch.manual_seed(0)
    start = torch.randn(shape)
    own, torchs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = [
        Muon([{"params": [own]}], lr=0.1),
        torch.optim.Muon([torchs], lr=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(3):
        own.grad = torch.randn(shape)
        torchs.grad = own.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    # torch computes in 16 bits.
    assert (own - torchs).norm() < 0.02 * (own - start).norm()
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
    assert values.min() > 0.3
    assert values.max() < 1.3


@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_parameter_is_in_exactly_one_group(kind):
    model = network()
    model[0].bias.requires_grad_(False)
    groups = [group for optimizer in make_optimizers(model, kind) for group in optimizer.param_groups]
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    vectors = [g["weight_decay"] for g in groups for p in g["params"] if p.ndim < 2]
    assert set(vectors) == {0.0}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_at_the_transferred_rate(kind):
    loop = training(OptimizerSelection(kind=kind), epochs=16)
    loop.fit()
    losses = [epoch["validation_loss"] for epoch in loop.history]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_shrinks_the_weights_stays_the_same(kind):
    rate, decay = transferred(kind, 0.004, 0.1)
    assert rate * decay == pytest.approx(0.0004)
    loop = training(OptimizerSelection(kind=kind), epochs=1)
    loop.fit()
    decayed = [g for o in loop.optimizers for g in o.param_groups if g["weight_decay"] > 0]
    assert all(float(g["lr"]) * g["weight_decay"] == pytest.approx(0.0004) for g in decayed)
    # What muon leaves to AdamW keeps AdamW's rate.
    assert float(loop.optimizers[-1].param_groups[0]["lr"]) == pytest.approx(rate)
    assert loop.learning_rate() == pytest.approx(0.004 if kind == "muon" else rate)


def test_an_own_rate_and_decay_are_taken_as_they_are():
    loop = training(OptimizerSelection(kind="lion", learning_rate=0.001, weight_decay=0.3), epochs=1)
    loop.fit()
    assert [(g["lr"], g["weight_decay"]) for g in loop.optimizers[0].param_groups] == [
        (0.001, 0.3),
        (0.001, 0),
    ]


def test_groups_that_learned_faster_go_on_doing_so():
    def given(parameters):
        first, *others = parameters
        return torch.optim.AdamW([{"params": others}, {"params": [first], "lr": 0.04}], lr=0.004)

    loop = training(OptimizerSelection(kind="lion"), optimizer=given, epochs=1)
    loop.fit()
    rates = {id(p): g["lr"] for g in loop.optimizers[0].param_groups for p in g["params"]}
    assert rates[id(loop.model[0].weight)] == pytest.approx(10 * rates[id(loop.model[3].weight)])


def test_the_rate_of_sgd_is_not_transferred():
    sgd = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}
    with pytest.raises(
        BadInput, match="the rate of SGD tells nothing about that of muon; write learning_rate"
    ):
        training(OptimizerSelection(), **sgd).fit()
    training(OptimizerSelection(learning_rate=0.01), epochs=1, **sgd).fit()


def test_muon_without_matrices_cannot_act():
    net = nn.Sequential(nn.LayerNorm(20), nn.Linear(20, 2))
    with pytest.raises(CannotAct, match="has none before its last layer; write kind: adamw"):
        training(OptimizerSelection(), model=net)


def test_an_unknown_kind_is_refused():
    with pytest.raises(Refused, match=r"optimizer_selection\.kind must be one of"):
        OptimizerSelection(kind="adamw8")
    with pytest.raises(BadInput, match='unknown optimizer "adam"; did you mean adamw'):
        make_optimizers(network(), "adam")


def test_a_missing_library_is_named_before_training(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(
        BadInput, match=r'schedulefree is not installed: pip install "fulldeck\[optimizers\]"'
    ):
        training(OptimizerSelection(kind="schedule_free"))


def test_lion_is_the_published_algorithm():
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = Lion([weight], lr=0.1, betas=(0.5, 0.9), weight_decay=0.2)
    expected, momentum = weight.detach().clone(), torch.zeros(2)
    for gradient in (torch.tensor([1.0, -1.0]), torch.tensor([-0.05, 3.0])):
        weight.grad = gradient.clone()
        optimizer.step()
        direction = (0.5 * momentum + 0.5 * gradient).sign()
        expected = expected - 0.1 * (direction + 0.2 * expected)
        momentum = 0.9 * momentum + 0.1 * gradient
    assert torch.allclose(weight, expected)


def test_muon_steps_are_as_large_as_adamws():
    model = network(width=64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizers = make_optimizers(model, "muon", learning_rate=0.01, weight_decay=0.0)
    nn.functional.cross_entropy(model(INPUTS), TARGETS).backward()
    for optimizer in optimizers:
        optimizer.step()
    moved = {
        name: float((value.float() - before[name]).pow(2).mean().sqrt())
        for name, value in model.state_dict().items()
    }
    assert moved["5.weight"] == pytest.approx(0.01, rel=0.1)  # AdamW's first step
    assert 0.002 < moved["3.weight"] < 0.01


@pytest.mark.parametrize(("kind", "most"), [("lion", 0.51), ("muon", 0.6), ("adamw_8bit", 0.45)])
def test_states_take_less_memory(kind, most):
    loop = training(OptimizerSelection(kind=kind), model=network(width=128), epochs=1)
    loop.fit()
    change = loop.reported["optimizer_selection"]["optimizer_state_bytes"]
    assert change["before"] == 8 * sum(p.numel() for p in loop.model.parameters())
    assert change["after"] == sum(map(state_bytes, loop.optimizers)) < most * change["before"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [6, 13])
def test_resume_is_bit_exact(kind, step, tmp_path):
    # Wide enough for states of 8 bits.
    chosen = (OptimizerSelection(kind=kind), EarlyStopping(patience=50))

    def built(folder):
        return training(
            *chosen,
            model=network(width=64),
            epochs=3,
            checkpoints=folder,
            checkpoint_every=2 if folder else None,
        )

    expected = built(None)
    whole = expected.fit().state_dict()
    interrupt(built(tmp_path), step)
    resumed = built(tmp_path)
    state = resumed.fit(resume=True).state_dict()
    assert all(torch.equal(whole[name], state[name]) for name in whole)
    assert resumed.history == expected.history
    assert resumed.reported == expected.reported


# Schedule-free --------------------------------------------------------------------------------------------


def validation_loss(model):
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model.eval()(INPUTS), TARGETS))


@pytest.mark.parametrize("normalised", [True, False])
def test_the_average_is_evaluated_and_handed_over(normalised):
    loop = training(OptimizerSelection(kind="schedule_free"), model=network(normalised))
    shipped = loop.fit()
    assert validation_loss(shipped) == pytest.approx(loop.history[-1]["validation_loss"], abs=1e-5)


def test_with_early_stopping_the_best_average_is_handed_over():
    loop = training(
        OptimizerSelection(kind="schedule_free"),
        EarlyStopping(patience=100),
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.3),
        epochs=6,
    )
    shipped = loop.fit()
    best = min(epoch["validation_loss"] for epoch in loop.history)
    assert validation_loss(shipped) == pytest.approx(best, abs=1e-5)
    # Why it stands before early_stopping: the best would be taken for training weights, and averaged again.
    wrong = training(
        EarlyStopping(patience=100),
        OptimizerSelection(kind="schedule_free"),
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.3),
        epochs=6,
    )
    assert validation_loss(wrong.fit()) > best + 0.1


def test_evaluating_does_not_change_the_training():
    often = training(OptimizerSelection(kind="schedule_free"))
    often.on("step_end", lambda batch: often.evaluate(batches()))
    seldom = training(OptimizerSelection(kind="schedule_free"), validation=None)
    one, other = often.fit().state_dict(), seldom.fit().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_rate_of_schedule_free_warms_up():
    loop = training(OptimizerSelection(kind="schedule_free", warmup=0.25))
    loop.fit()
    assert loop.optimizers[0].param_groups[0]["warmup_steps"] == 8


def test_its_warm_up_needs_the_number_of_steps():
    class Stream:
        def __iter__(self):
            return iter(batches())

    chosen = OptimizerSelection(kind="schedule_free")
    with pytest.raises(BadInput, match="this loader has no length; set max_steps"):
        training(chosen, loader=Stream()).fit()
    training(chosen, loader=Stream(), max_steps=4).fit()


@pytest.mark.parametrize(
    ("other", "reason"),
    [(LrScheduler(), "in place of a falling rate"), (WeightAveraging(), "an average of its own")],
)
def test_schedule_free_takes_the_place_of_schedules_and_averages(other, reason):
    situation = Situation("table", "classification", "cpu")
    with pytest.raises(BadInput, match=reason):
        make_plan(make_recipe("breast_cancer", [OptimizerSelection(kind="schedule_free"), other]), situation)
    make_plan(make_recipe("breast_cancer", [OptimizerSelection(), other]), situation)


def test_a_constant_schedule_may_stand_beside_it():
    chosen = [OptimizerSelection(kind="schedule_free"), LrScheduler(kind="constant", warmup=0.1)]
    make_plan(make_recipe("breast_cancer", chosen), Situation("table", "classification", "cpu"))


def test_why_a_falling_rate_and_schedule_free_exclude_each_other():
    def trained(*beside):
        return training(OptimizerSelection(kind="schedule_free"), *beside, loader=batches(0.5))

    alone, both = trained(), trained(LrScheduler())
    alone.fit(), both.fit()
    assert both.history[-1]["validation_loss"] > alone.history[-1]["validation_loss"]


def test_why_averaging_and_schedule_free_exclude_each_other():
    loop = training(
        OptimizerSelection(kind="schedule_free"), WeightAveraging(unless_worse=False), model=network(False)
    )
    shipped = loop.fit()
    average = loop.states["weight_averaging"]
    own = [p for group in loop.optimizers[0].param_groups for p in group["params"]]
    by_id = {id(p): name for name, p in loop.model.named_parameters()}
    # What is shipped is the average of the training weights; schedule-free's own is nowhere.
    for parameter in own:
        saved = average.state_dict()["averages"][by_id[id(parameter)]]
        assert torch.equal(shipped.state_dict()[by_id[id(parameter)]], saved)
