"""dp_training: the guarantee holds, is accounted for, and nothing that would break it is let through."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fulldeck.catalogue import catalogue
from fulldeck.data import Examples
from fulldeck.declared import Refused
from fulldeck.diagnosis.inference import trained as trained_model
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.errors import BadInput, CannotAct
from fulldeck.instructions.data.auto_data_augmentation import AutoDataAugmentation
from fulldeck.instructions.extensions.dp_training import DpTraining, PrivateGradients, private_epsilon
from fulldeck.instructions.extensions.dp_training.accounting import Steps
from fulldeck.instructions.extensions.dp_training.attack import attacked
from fulldeck.instructions.extensions.dp_training.clipping import MODES
from fulldeck.instructions.extensions.dp_training.poisson import PoissonLoader, Secret
from fulldeck.instructions.inference.knowledge_distillation.teacher import open_teacher
from fulldeck.instructions.inference.post_training_quantization import PostTrainingQuantization
from fulldeck.instructions.training.dynamic_batch_scheduler import DynamicBatchScheduler
from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.package import Package
from fulldeck.pipeline.run import run, situation
from fulldeck.planner import make_plan
from fulldeck.recipe.recipe import make_recipe
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop
from tests.interruption import interrupt

LOSS = nn.functional.cross_entropy


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


class Tokens(nn.Module):
    """An embedding, a sequence through a linear layer that is used twice, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6, padding_idx=0)
        self.linear = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, input: Tensor) -> Tensor:
        x = self.linear(torch.relu(self.linear(self.embedding(input))))
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits


def by_hand(model: nn.Module, inputs: Tensor, targets: Tensor, most: float) -> list[Tensor]:
    total = [torch.zeros_like(one) for one in model.parameters()]
    for row in range(len(targets)):
        gradients = torch.autograd.grad(
            LOSS(model(inputs[row : row + 1]), targets[row : row + 1]), [*model.parameters()]
        )
        norm = torch.sqrt(sum(one.square().sum() for one in gradients))  # type: ignore[arg-type]
        for place, one in enumerate(gradients):
            total[place] += one * (most / norm).clamp(max=1)
    return total


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["images", "tokens"])
def test_every_way_gives_the_sum_of_clipped_gradients(mode: str, kind: str) -> None:
    draw = torch.Generator().manual_seed(1)
    targets = torch.randint(3, (12,), generator=draw)
    if kind == "images":
        model, inputs = net(), torch.randn(12, 1, 8, 8, generator=draw)
    else:
        torch.manual_seed(0)
        model, inputs = Tokens(), torch.randint(11, (12, 5), generator=draw)
    wanted = by_hand(copy.deepcopy(model), inputs, targets, 0.5)
    for micro_batch in (None, 5):
        made = PrivateGradients(
            model,
            LOSS,
            noise=1e-9,
            expected=10,
            max_norm=0.5,
            mode=mode,
            micro_batch=micro_batch,  # type: ignore[arg-type]
        )
        loss = made(0, inputs, targets)
        made.clipped.end()
        assert float(loss) == pytest.approx(float(LOSS(model(inputs), targets)), rel=1e-4)
        for parameter, sum_of_all in zip(model.parameters(), wanted, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad * 10, sum_of_all, atol=1e-4, rtol=1e-3)


def test_the_noise_is_as_large_as_accounted_for_and_new_in_each_step() -> None:
    model = nn.Linear(200, 200)
    made = PrivateGradients(model, LOSS, noise=2.0, expected=8, max_norm=0.5, mode="functional")
    empty = torch.zeros(0, 200), torch.zeros(0, dtype=torch.long)
    made(0, *empty)
    assert model.weight.grad is not None
    first = model.weight.grad
    assert float(first.std()) == pytest.approx(2.0 * 0.5 / 8, rel=0.03)
    made(1, *empty)
    assert (
        abs(float(torch.corrcoef(torch.stack([first.flatten(), model.weight.grad.flatten()]))[0, 1])) < 0.03
    )


def loader(rows: int = 400, batch: int = 40) -> BatchLoader:
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(rows, 6)).astype(np.float32)
    targets = (inputs[:, 0] > 0).astype(np.int64)
    return BatchLoader(Examples(inputs, targets), TensorEncoder((6,)), batch, ShuffledSampler(rows, 0))


def test_batches_are_drawn_by_poisson_sampling() -> None:
    poisson = PoissonLoader(loader(), Secret(3))
    drawn = [poisson.indices(step) for step in range(500)]
    sizes = [len(one) for one in drawn]
    assert np.mean(sizes) == pytest.approx(40, rel=0.03)
    assert np.std(sizes) == pytest.approx(np.sqrt(400 * 0.1 * 0.9), rel=0.15), "sizes vary as a binomial does"
    seen = np.bincount(np.concatenate(drawn), minlength=400)
    assert seen.min() > 20, "every sample has the same chance"
    assert len(poisson) == 10
    again = [targets for _, targets in PoissonLoader(loader(), Secret(3)).batches(1, skip=4)]
    straight = [targets for _, targets in poisson.batches(1)][4:]
    assert all(map(torch.equal, again, straight)), "going on in the middle of an epoch draws the same"


def test_epsilon_and_noise_belong_together() -> None:
    steps = Steps(0.01, 1000, 1e-5)
    noise = steps.noise(2.0)
    assert 1.95 < steps.epsilon(noise) <= 2.0
    assert steps.epsilon(noise) == private_epsilon(noise=noise, rate=0.01, steps=1000, delta=1e-5)
    assert Steps(0.01, 1000, 1e-5, "prv").epsilon(noise) < 2.0, "the other accountant is tighter"


def trained(folder: Path | None = None, epochs: int = 2, **chosen: object) -> TrainingLoop:
    torch.manual_seed(0)
    instruction = DpTraining(**{"noise_seed": 1, **chosen})
    loop = TrainingLoop(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), loader(), LOSS, instructions=[instruction],
        epochs=epochs, checkpoints=folder, device="cpu",
    )  # fmt: skip
    return loop


def test_what_cannot_be_reached_says_what_would_do() -> None:
    with pytest.raises(
        BadInput, match=r"epsilon 0\.5 is not reachable: 20 steps with a noise multiplier of 0\.5 spend"
    ):
        trained(epsilon=0.5, noise_multiplier=0.5)
    with pytest.raises(BadInput, match=r"would do, or at most 0 steps"):
        trained(epsilon=0.5, noise_multiplier=0.5)
    with pytest.raises(
        BadInput, match=r"epsilon 0\.001 is not reachable in 20 steps.*even a noise multiplier of 100"
    ):
        trained(epsilon=0.001)
    with pytest.raises(BadInput, match="needs epsilon or noise_multiplier"):
        trained(epsilon=None)
    assert trained(epsilon=None, noise_multiplier=0.5) is not None


def test_a_batch_norm_is_refused_or_replaced() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    with pytest.raises(CannotAct, match=r"1 is a batch norm.*write group_norm: true"):
        TrainingLoop(model, loader(), LOSS, instructions=[DpTraining()], device="cpu")
    loop = TrainingLoop(model, loader(), LOSS, instructions=[DpTraining(group_norm=True)], device="cpu")
    loop.fit()
    assert isinstance(loop.model[1], nn.GroupNorm)  # type: ignore[index]


def test_a_loader_that_draws_its_own_batches_is_refused() -> None:
    batches = [(torch.randn(4, 6), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(CannotAct, match="draws the batches itself, by Poisson sampling"):
        TrainingLoop(nn.Linear(6, 2), batches, LOSS, instructions=[DpTraining()], device="cpu")


@pytest.mark.parametrize(
    ("other", "remedy"),
    [
        (DynamicBatchScheduler(), "micro_batch: 64"),
        (PostTrainingQuantization(), "mode: dynamic"),
        (AutoDataAugmentation(), "mix: none, attack: none"),
        (LrScheduler(range_test=True), "leave range_test out"),
    ],
)
def test_what_would_break_the_guarantee_has_no_plan(other: object, remedy: str) -> None:
    recipe = make_recipe("digits", [DpTraining(), other])  # type: ignore[list-item]
    with pytest.raises(Refused, match=f"exclude each other.*{remedy}"):
        make_plan(recipe, situation(recipe))


def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = trained(epochs=3, mode="ghost").fit()
    interrupt(trained(tmp_path, epochs=3, mode="ghost"), 25, "step_end")
    # Its own secret comes from the checkpoint.
    resumed = trained(tmp_path, epochs=3, mode="ghost", noise_seed=77).fit(resume=True)
    for one, same in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, same)


def test_losses_give_nothing_away() -> None:
    assert attacked([], 0) > 0.85, "random labels are learnt by heart"
    assert attacked([DpTraining(epsilon=1.0, noise_seed=0, mode="ghost")], 0) < 0.65


def test_what_was_spent_stands_in_manifest_and_report(tmp_path: Path) -> None:
    names = ["leakage_safe_splitting", "onnx_export", "model_serving_framework", "model_packaging"]
    others = [catalogue().find(name).load()() for name in names]
    result = run("breast_cancer", [*others, DpTraining(epsilon=3.0)], out=tmp_path, epochs=2, threads=1)
    changes = next(one["changes"] for one in result["instructions"] if one["name"] == "dp_training")
    assert 2.9 < changes["epsilon"]["after"] <= 3.0
    folder = Path(result["run"])
    stated = json.loads((folder / "package" / "manifest.json").read_text())["stated"]["dp_training"]
    assert stated["epsilon"] == changes["epsilon"]["after"]
    assert stated["steps"] == result["training"]["steps"]
    assert "epsilon" in (folder / "report.html").read_text()
    assert any("private training: epsilon 3" in note for note in result["notes"])


@pytest.mark.slow
def test_group_norms_are_in_the_package_and_in_what_is_opened_of_the_run(tmp_path: Path) -> None:
    names = ["leakage_safe_splitting", "model_serving_framework", "model_packaging"]
    others = [catalogue().find(name).load()() for name in names]
    private = DpTraining(group_norm=True, mode="functional", epsilon=None, noise_multiplier=1.0)
    result = run("digits", [*others, private], out=tmp_path, epochs=1, threads=2)
    folder = Path(result["run"])
    package = Package.open(folder / "package")
    assert package.service.network is not None
    assert package.service.network["norm"] == "group"
    _, candidate = trained_model(folder)
    example = candidate.example(4)
    served = package.engine().run(example)["output"]
    np.testing.assert_allclose(served, candidate.run(example), atol=1e-5)
    teacher = open_teacher(str(folder), candidate.module, candidate.data)
    assert any(isinstance(one, nn.GroupNorm) for one in teacher.module.modules())


def test_language_models_are_refused() -> None:
    recipe = make_recipe("stdlib_text", [DpTraining()])
    with pytest.raises(Refused, match="clips by sample"):
        make_plan(recipe, situation(recipe))
