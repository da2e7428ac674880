"""auto_data_augmentation: policies, mixing, adversarial samples, separate statistics, exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fulldeck.distributed.ranks import Ranks
from fulldeck.errors import BadInput, CannotAct
from fulldeck.instruction import Situation
from fulldeck.instructions.data.auto_data_augmentation import (
    AutoDataAugmentation,
    adversarial,
    augment,
    mix,
)
from fulldeck.instructions.data.auto_data_augmentation.draws import Draws
from fulldeck.instructions.data.auto_data_augmentation.operations import OPERATIONS, apply_operations
from fulldeck.instructions.data.auto_data_augmentation.policies import augmented
from fulldeck.instructions.data.auto_data_augmentation.strength import FoundMagnitude
from fulldeck.training.batch import Batch, Part
from fulldeck.training.loop import TrainingLoop


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def images(count: int = 16, channels: int = 3, side: int = 12) -> Tensor:
    return torch.rand(count, channels, side, side)


def network(channels: int = 3) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.rand(8, 3, 12, 12, generator=generator), torch.randint(4, (8,), generator=generator))
        for _ in range(count)
    ]


def loop_with(
    instruction: AutoDataAugmentation, model: nn.Module | None = None, **options: Any
) -> TrainingLoop:
    return TrainingLoop(
        model or network(), batches(), cross_entropy, instructions=[instruction], device="cpu", **options
    )


# Policies


@pytest.mark.parametrize("policy", ["trivial", "rand", "augmix"])
@pytest.mark.parametrize(("channels", "side"), [(3, 12), (1, 8)])
def test_a_policy_keeps_shape_range_and_dtype(policy: Any, channels: int, side: int) -> None:
    given = images(32, channels, side)
    before = given.clone()
    result = augment(given, policy, magnitude=1.0, operations=OPERATIONS, flip=True)
    assert result.shape == given.shape
    assert result.dtype == given.dtype
    assert 0 <= result.min() <= result.max() <= 1
    assert not torch.equal(result, given)
    assert torch.equal(given, before)


@pytest.mark.parametrize("policy", ["trivial", "rand", "augmix"])
def test_a_policy_is_the_same_again_with_the_same_seed(policy: Any) -> None:
    given, results = images(), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(augment(given, policy, flip=True))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("policy", ["trivial", "rand", "augmix"])
def test_processes_that_share_a_batch_draw_together_what_one_draws(policy: Any) -> None:
    given, how = images(11), {"magnitude": 0.5, "operations": OPERATIONS, "chains": 2, "flip": True}

    def drawn(rows: slice | None) -> tuple[Tensor, Tensor, float]:
        torch.manual_seed(3)
        mine = None if rows is None else torch.arange(11)[rows]
        own = given if rows is None else given[rows]
        chosen, draws = Draws(11, mine).some(0.6)
        result = own.index_copy(0, chosen.nonzero()[:, 0], augmented(own[chosen], draws, policy, **how))
        return chosen, result, float(torch.rand(()))

    chosen, whole, after = drawn(None)
    parts = [drawn(slice(0, 6)), drawn(slice(6, 11))]
    assert torch.equal(torch.cat([part[0] for part in parts]), chosen)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), whole)
    assert [part[2] for part in parts] == [after, after], "all go on from the same state"


@pytest.mark.parametrize("operation", sorted(set(OPERATIONS) - {"autocontrast", "equalize", "posterize"}))
def test_an_operation_changes_nothing_at_strength_0_and_much_at_1(operation: Any) -> None:
    given = images(4) * 0.5 + 0.2
    choice, direction = torch.tensor([[0, 0, 0, -1]]), torch.tensor([[0, 1, 0, 1]])
    still = apply_operations(given, [operation], choice, torch.zeros(1, 4), direction)
    assert torch.allclose(still, given, atol=1e-5)
    moved = apply_operations(given, [operation], choice, torch.ones(1, 4), direction)
    assert all((moved[row] - given[row]).abs().mean() > 0.01 for row in range(3))
    assert torch.equal(moved[3], given[3])


def test_geometric_operations_of_an_image_are_one_warp() -> None:
    given = torch.zeros(1, 1, 9, 9)
    given[0, 0, 4, 4] = 1
    operations: Any = ["translate_x", "translate_y"]
    choice, direction = torch.tensor([[0], [1]]), torch.tensor([[0], [1]])
    moved = apply_operations(given, operations, choice, torch.ones(2, 1), direction)
    row, column = divmod(int(moved.argmax()), 9)
    assert (row, column) == (7, 1)
    assert moved.sum() == pytest.approx(1, abs=1e-4)


def test_no_flip_unless_asked() -> None:
    given = images()
    assert torch.equal(augment(given, "none"), given)
    flipped = augment(given, "none", flip=True)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, given, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, given, strict=True)]
    assert any(mirrored)
    assert any(kept)
    assert all(a or b for a, b in zip(mirrored, kept, strict=True))


# Mixing


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_labels_mix_as_the_images_do(kind: Any) -> None:
    targets = torch.arange(8) % 4
    # Every pixel of an image is its class, so the mean pixel must be the mean class of the mixed label.
    given = (targets / 4).view(-1, 1, 1, 1).expand(8, 3, 10, 10).contiguous()
    mixed, probabilities = mix(given, targets, 4, kind, alpha=1.0)
    assert torch.allclose(probabilities.sum(1), torch.ones(8))
    expected = probabilities @ (torch.arange(4) / 4)
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), expected, atol=1e-5)
    assert (probabilities.max(1).values < 1).any()


def test_mixing_takes_probabilities_too() -> None:
    targets = torch.full((8, 4), 0.25)
    _, probabilities = mix(images(8), targets, 4)
    assert torch.allclose(probabilities, targets)


# Adversarial samples


@pytest.mark.parametrize("steps", [1, 5])
def test_adversarial_samples_raise_the_loss_within_the_bound(steps: int) -> None:
    model, given, targets = network().eval(), images(32), torch.randint(4, (32,))
    moved = adversarial(model, given, targets, epsilon=0.05, steps=steps)
    assert (moved - given).abs().max() <= 0.05 + 1e-6
    assert 0 <= moved.min() <= moved.max() <= 1
    assert not moved.requires_grad
    assert cross_entropy(model(moved), targets) > cross_entropy(model(given), targets) + 0.01


def test_an_attack_leaves_gradients_and_running_statistics_alone() -> None:
    model, given, targets = network(), images(), torch.randint(4, (16,))
    cross_entropy(model(given), targets).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    adversarial(model, given, targets, epsilon=0.05, steps=2)
    now = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, now, strict=True))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model[1].track_running_stats


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_the_share_of_each_part_is_attacked(micro_batch: int | None) -> None:
    loop = loop_with(
        AutoDataAugmentation(policy="none", adversarial_share=0.5, epsilon=0.1), micro_batch=micro_batch
    )
    originals: list[Tensor] = []
    parts: list[Part] = []
    loop.on("batch_start", lambda batch: originals.append(batch.inputs))
    loop.on("part_start", parts.append)
    loop.fit()
    size = micro_batch or 8
    assert len(parts) == 3 * 8 // size
    for part, original in zip(parts, torch.cat(originals).split(size), strict=True):
        assert isinstance(part.inputs, Tensor)
        changed = (part.inputs - original).abs().amax(dim=(1, 2, 3))
        assert (changed[: size // 2] > 0.05).all()
        assert (changed <= 0.1 + 1e-6).all()
        assert (changed[size // 2 :] == 0).all()


def test_the_attack_adds_nothing_to_the_gradient() -> None:
    plain, attacked = (
        loop_with(
            AutoDataAugmentation(policy="none", adversarial_share=1.0, epsilon=0.0, attack=attack), nn_plain()
        )
        for attack in ("none", "fgsm")
    )
    # An attack that may not move anything must leave the training as it was.
    for a, b in zip(plain.fit().parameters(), attacked.fit().parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def nn_plain() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4))


# Separate statistics


def test_separate_statistics_keep_the_main_ones_clean_and_are_undone() -> None:
    def trained(**options: Any) -> nn.Module:
        model = network()
        instruction = AutoDataAugmentation(policy="none", epsilon=0.3, adversarial_share=0.5, **options)
        loop = loop_with(instruction, model, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
        keys = list(model.state_dict())
        result = loop.fit()
        assert list(result.state_dict()) == keys
        assert "forward" not in vars(model[1])
        assert "forward" not in vars(result[1])
        return result

    clean = torch.cat([inputs[4:] for inputs, _ in batches()])
    reference = network()
    reference.train()
    for inputs in clean.split(4):
        reference[:2](inputs)
    separate, shared = trained(separate_statistics=True), trained()
    assert torch.allclose(separate[1].running_mean, reference[1].running_mean, atol=1e-6)
    assert torch.allclose(separate[1].running_var, reference[1].running_var, atol=1e-6)
    assert not torch.allclose(shared[1].running_var, reference[1].running_var, atol=1e-6)


def test_the_separate_layers_are_trained_also_where_the_model_is_frozen() -> None:
    loop = loop_with(AutoDataAugmentation(separate_statistics=True), network().requires_grad_(False))
    assert len(loop.parameters()) == 2


def test_separate_statistics_need_batch_normalisation() -> None:
    with pytest.raises(CannotAct, match="separate_statistics: false"):
        loop_with(AutoDataAugmentation(separate_statistics=True), nn_plain())


# In the loop


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("resume_at", [1, 2, 4])
def test_resuming_is_bit_exact(tmp_path: Path, resume_at: int, micro_batch: int | None) -> None:
    instruction = AutoDataAugmentation(
        flip=True, mix="cutmix", attack="pgd", attack_steps=2, adversarial_share=0.5, separate_statistics=True
    )

    def loop(folder: Path) -> TrainingLoop:
        folder.mkdir(exist_ok=True)
        return loop_with(
            instruction,
            epochs=2,
            validation=batches(1),
            checkpoints=folder,
            checkpoint_every=1,
            micro_batch=micro_batch,
        )

    whole = loop(tmp_path / "whole")
    expected = whole.fit().state_dict()
    interrupted = loop(tmp_path / "parts")

    def interrupt(state: Any) -> None:
        if interrupted.step > resume_at:
            raise KeyboardInterrupt

    interrupted.on("checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit()
    resumed = loop(tmp_path / "parts")
    result = resumed.fit(resume=True).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in result.items())
    assert resumed.history == whole.history
    assert "augmentation_magnitude" in resumed.history[-1]


def test_a_repeated_gradient_sees_the_same_batch() -> None:
    loop = loop_with(AutoDataAugmentation(attack="none"), max_steps=1)
    seen: list[Tensor] = []

    def twice(batch: Batch, inner: Any) -> None:
        inner(batch)
        inner(batch)

    loop.around("gradients", twice)
    loop.on("part_start", lambda part: seen.append(part.inputs))
    loop.fit()
    assert torch.equal(seen[0], seen[1])


def test_the_share_leaves_images_clean() -> None:
    loop = loop_with(AutoDataAugmentation(policy="rand", magnitude=1.0, share=0.5, attack="none"))
    same: list[bool] = []

    def compare(part: Part) -> None:
        original = batches()[loop.step][0]
        same.extend((part.inputs == original).flatten(1).all(1).tolist())  # type: ignore[union-attr]

    loop.on("part_start", compare)
    loop.fit()
    assert 4 <= sum(same) <= 20


def test_the_magnitude_rises_while_augmented_samples_are_right_and_falls_when_not() -> None:
    found = FoundMagnitude(torch.device("cpu"))
    targets, augmented = torch.arange(100) % 4, torch.arange(100) % 2 == 0
    right = nn.functional.one_hot(targets, 4).float()
    for _ in range(60):
        found.begin()
        found.observe(right, targets, augmented)
        found.learn(Ranks(together=False))
    assert found.magnitude == pytest.approx(0.3)
    for _ in range(60):
        found.begin()
        found.observe(torch.where(augmented[:, None], right.roll(1, 1), right), right, augmented)
        found.learn(Ranks(together=False))
    assert found.magnitude < 0.1


def test_digits_sized_grey_images_train() -> None:
    generator = torch.Generator().manual_seed(0)
    data = [(torch.rand(8, 1, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator))]
    loop = TrainingLoop(
        network(1), data, cross_entropy, instructions=[AutoDataAugmentation(mix="mixup")], device="cpu"
    )
    assert sum(value.isfinite().all() for value in loop.fit().parameters()) == 6


# Bad input


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"epsilon": 8},
            "auto_data_augmentation.epsilon must be between 0 and 1, got 8. For 8 grey levels of 255 write "
            "epsilon: 0.031.",
        ),
        ({"magnitude": 3}, "auto_data_augmentation.magnitude must be auto or between 0 and 1, got 3"),
        (
            {"magnitude": "atuo"},
            "auto_data_augmentation.magnitude must be auto or between 0 and 1, got 'atuo'; did you mean auto?",
        ),
        ({"magnitude": True}, "auto_data_augmentation.magnitude must be auto or between 0 and 1, got True"),
        (
            {"share": 1.0},
            "auto_data_augmentation.share must be below 1 with magnitude: auto, which compares with the images "
            "left clean; write share: 0.9, or a magnitude between 0 and 1",
        ),
        (
            {"epsilom": 0.1},
            'unknown parameter "epsilom" of auto_data_augmentation; did you mean epsilon?',
        ),
    ],
)
def test_refused_parameters(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as refused:
        AutoDataAugmentation(**parameters)
    assert str(refused.value) == message


def test_refused_policy_and_operation() -> None:
    with pytest.raises(BadInput, match=r"policy must be one of .*'trivial'.*did you mean augmix"):
        AutoDataAugmentation(policy="augmicks")
    with pytest.raises(BadInput, match=r"operations must be one of .*'rotate'"):
        AutoDataAugmentation(operations=("rotat",))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.randn(8, 3, 12, 12) * 2, "standardise them inside the model"),
        (torch.rand(8, 432), "N x C x H x W"),
    ],
)
def test_batches_that_are_not_images_are_refused(inputs: Tensor, message: str) -> None:
    loop = TrainingLoop(
        nn_plain(),
        [(inputs, torch.zeros(8, dtype=torch.long))],
        cross_entropy,
        instructions=[AutoDataAugmentation()],
        device="cpu",
    )
    with pytest.raises(CannotAct, match=message):
        loop.fit()


def test_it_cannot_act_on_tables_nor_mix_for_regression() -> None:
    instruction = AutoDataAugmentation(mix="mixup")
    assert "image data" in str(
        instruction.cannot(Situation(kind="table", task="classification", device="cpu"))
    )
    table = Situation(kind="table", task="regression", device="cpu")
    assert "works on image data" in str(instruction.cannot(table)), "not what to write, which would fail too"
    assert "mix: none" in str(instruction.cannot(Situation(kind="image", task="regression", device="cpu")))
    assert instruction.cannot(Situation(kind="image", task="classification", device="cpu")) is None
