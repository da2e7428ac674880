"""model_fingerprinting: the mark is there, the task is kept, and nothing that it must not touch is touched."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fulldeck.errors import BadInput, CannotAct
from fulldeck.instruction import Situation
from fulldeck.instructions.extensions.dp_training import DpTraining
from fulldeck.instructions.extensions.model_fingerprinting import Mark, ModelFingerprinting, mark_model
from fulldeck.ownership.claim import of_weights
from fulldeck.ownership.key import Key
from fulldeck.pipeline.run import run
from fulldeck.planner import make_plan
from fulldeck.recipe.recipe import make_recipe
from fulldeck.training.loop import TrainingLoop

LOSS = nn.functional.cross_entropy
WIDTH, CLASSES = 20, 4


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(WIDTH, 128),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, CLASSES),
    )


def batches(count: int = 40) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(count, 64, WIDTH, generator=draw)
    return [(one, one[:, :CLASSES].argmax(dim=1)) for one in rows]


def trained(
    *instructions: ModelFingerprinting, epochs: int = 8, **settings: object
) -> tuple[nn.Module, TrainingLoop]:
    loop = TrainingLoop(
        net(),
        batches(),
        LOSS,
        instructions=instructions,
        epochs=epochs,
        device="cpu",
        **settings,  # type: ignore[arg-type]
    )
    return loop.fit().eval(), loop


def accuracy(model: nn.Module) -> float:
    draw = torch.Generator().manual_seed(2)
    rows = torch.randn(1000, WIDTH, generator=draw)
    with torch.no_grad():
        return float((model(rows).argmax(1) == rows[:, :CLASSES].argmax(1)).double().mean())


def mark_of(key: Key, model: nn.Module) -> Mark:
    return mark_model(model, key, torch.zeros(1, WIDTH))


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "owner.key"
    Key.new().write(path)
    return path


@pytest.fixture(scope="module")
def marked(key_file: Path) -> tuple[nn.Module, TrainingLoop]:
    return trained(ModelFingerprinting(key=str(key_file)))


def test_the_mark_is_learnt_and_the_task_is_kept(
    marked: tuple[nn.Module, TrainingLoop], key_file: Path
) -> None:
    model, loop = marked
    mark = mark_of(Key.read(key_file), model)
    assert mark.answers().p_value < 1e-30
    weights = mark.in_weights()
    assert weights is not None
    assert weights.p_value < 1e-10
    assert weights.place.startswith("3.weight"), "the largest layer"
    plain, _ = trained()
    assert accuracy(model) > accuracy(plain) - 0.06
    assert loop.reported["model_fingerprinting"]["trigger_matches"]["after"] > 0.9
    assert "owner's mark:" in " ".join(loop.notes)


def test_another_key_finds_nothing(marked: tuple[nn.Module, TrainingLoop]) -> None:
    mark = mark_of(Key(bytes(32)), marked[0])
    assert mark.answers().p_value > 1e-4
    weights = mark.in_weights()
    assert weights is not None
    assert weights.p_value > 1e-3


def test_it_survives_pruning_and_eight_bits(marked: tuple[nn.Module, TrainingLoop], key_file: Path) -> None:
    changed = copy.deepcopy(marked[0])
    with torch.no_grad():
        for module in changed.modules():
            if isinstance(module, nn.Linear):
                scale = module.weight.abs().max() / 127
                module.weight.copy_((module.weight / scale).round() * scale)
                module.weight[module.weight.abs() < module.weight.abs().quantile(0.4)] = 0
    mark = mark_of(Key.read(key_file), changed)
    assert mark.answers().p_value < 1e-6
    weights = mark.in_weights()
    assert weights is not None
    assert weights.p_value < 1e-6


def test_running_statistics_and_modes_are_left_alone() -> None:
    model = net().train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    mark = mark_of(Key(bytes(32)), model)
    model(torch.randn(8, WIDTH)).sum().backward()
    mark.add_gradients(0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model[1].training


def test_a_drawn_key_goes_on_with_the_training_and_into_the_run_folder_only(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    first = trained(ModelFingerprinting(), epochs=2, checkpoints=tmp_path / "c", max_steps=50)[1]
    loop = TrainingLoop(
        net(),
        batches(),
        LOSS,
        instructions=[ModelFingerprinting()],
        epochs=2,
        checkpoints=tmp_path / "c",
        device="cpu",
    )
    loop.fit(resume=True)
    keys = [one.carried["model_fingerprinting"]["key"] for one in (first, loop)]
    assert keys[0] == keys[1]

    recipe = ["leakage_safe_splitting", "model_fingerprinting", "onnx_export", "model_packaging"]
    file = tmp_path / "r.yaml"
    file.write_text(
        "workload: breast_cancer\ntrain: {epochs: 8, threads: 1}\ninstructions:\n"
        + "".join(f"  - {name}\n" for name in recipe)
    )
    folder = Path(run(file, out=tmp_path / "runs")["run"])
    key = Key.read(folder / "owner.key")
    for path in (folder / "package").rglob("*"):
        if path.is_file():
            assert key.secret.hex().encode() not in path.read_bytes()
            assert key.commitment.encode() not in path.read_bytes()
    changes = {
        one["name"]: one["changes"]
        for one in json.loads((folder / "result.json").read_text())["instructions"]
    }
    assert changes["model_fingerprinting"]["trigger_matches"]["after"] > 0.7


@pytest.mark.parametrize("task", ["regression", "language_modelling"])
def test_what_is_no_classifier_is_refused_before_anything_is_done(task: str) -> None:
    situation = Situation(kind="tensor", task=task, device="cpu")
    with pytest.raises(BadInput, match=f"this task is {task}"):
        make_plan(make_recipe("digits", [ModelFingerprinting()]), situation)


def test_several_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    rows = [({"a": torch.randn(4, 3), "b": torch.randn(4, 3)}, torch.zeros(4, dtype=torch.int64))]
    with pytest.raises(CannotAct, match="this model takes a, b"):
        TrainingLoop(Two(), rows, LOSS, instructions=[ModelFingerprinting()], device="cpu")


def test_a_wrong_key_file_ends_the_run_before_it_trains(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"model_fingerprinting: .*no\.key does not exist"):
        run("breast_cancer", [ModelFingerprinting(key=str(tmp_path / "no.key"))], out=tmp_path)


def test_it_stands_before_what_takes_the_place_of_gradients(tmp_path: Path) -> None:
    """Inside of dp_training, which computes gradients itself, its own would never be asked for."""
    situation = Situation(kind="table", task="classification", device="cpu")
    chosen = [DpTraining(noise_multiplier=0.5, epsilon=None), ModelFingerprinting()]
    plan = make_plan(make_recipe("breast_cancer", chosen), situation)
    assert [step.label for step in plan.steps] == ["model_fingerprinting", "dp_training"]
    found = []
    for instructions in (chosen[::-1], chosen):
        result = run(
            make_recipe("breast_cancer", instructions, train={"epochs": 10, "threads": 1}), out=tmp_path
        )
        found.append(result)
    # The planner puts them right in both runs.
    for result in found:
        changes = {one["name"]: one["changes"] for one in result["instructions"]}
        assert changes["model_fingerprinting"]["trigger_matches"]["after"] > 0.8


def test_wrong_order_by_hand_leaves_no_mark() -> None:
    asked: list[int] = []

    loop = TrainingLoop(net(), batches(4), LOSS, epochs=4, device="cpu")

    def instead(batch: object, inner: object) -> None:
        asked.append(loop.step)
        for parameter in loop.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        loop.last_loss = torch.zeros(())

    loop.around("gradients", instead)
    loop.attach(ModelFingerprinting(), "model_fingerprinting")
    before = copy.deepcopy(net().state_dict())
    model = loop.fit()
    assert len(asked) == 16
    key = loop.carried["model_fingerprinting"]["key"]
    assert of_weights(key, {"w": model[3].weight.numpy(force=True)}).p_value > 1e-4  # type: ignore[union-attr]
    assert before.keys() == model.state_dict().keys()
