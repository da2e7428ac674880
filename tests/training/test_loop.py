"""The loop's contracts, each with a small instruction that needs it as a real one will."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fulldeck.data import Examples
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.errors import BadInput, RunFailed
from fulldeck.instruction import Evidence, Instruction, instruction
from fulldeck.training.batch import Batch, Part, split_batch
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop

EVIDENCE = Evidence(workload="digits", metric="accuracy", expect=">= +0.0")
INPUTS = torch.randn(130, 6, generator=torch.Generator().manual_seed(1))
TARGETS = (INPUTS[:, 0] + INPUTS[:, 1] > 0).long()


def fake(cls: type[Instruction]) -> type[Instruction]:
    return instruction(900, stage="training", evidence=EVIDENCE)(cls)


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))


def loader(batch_size: int = 32) -> BatchLoader:
    examples = Examples(INPUTS.numpy(), TARGETS.numpy())
    return BatchLoader(examples, TensorEncoder((6,)), batch_size, ShuffledSampler(len(examples), seed=3))


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(1) == targets).double().mean())


def make_loop(*instructions: Instruction, dropout: float = 0.0, **options: Any) -> TrainingLoop:
    options = {"epochs": 3, "validation": loader(), "metrics": {"accuracy": accuracy}} | options
    return TrainingLoop(
        network(dropout),
        loader(),
        nn.functional.cross_entropy,
        instructions=instructions,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.02),
        device="cpu",
        **options,
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(one: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.allclose(a, b, atol=1e-5) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )


def test_it_learns_and_tells_how() -> None:
    records: list[Any] = []
    loop = make_loop(epochs=8, record=records.append)
    loop.fit()
    assert loop.history[-1]["validation_accuracy"] > 0.9
    assert loop.history[-1]["loss"] < loop.history[0]["loss"]
    assert [record["epoch"] for record in records] == list(range(8))
    phases = records[0]["phases_ms"]
    assert set(phases) >= {"data", "transfer", "forward", "backward", "optimizer", "communication"}
    assert phases["forward"] > 0
    assert phases["backward"] > 0


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (make_loop(dropout=0.3, seed=seed).fit() for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("size", [1, 7, 32])
def test_micro_batches_leave_the_gradient_as_it_is(size: int) -> None:
    # 130 samples in batches of 32 end with a batch of 2; parts of 7 end with a part of 4.
    assert close(make_loop().fit(), make_loop(micro_batch=size).fit())


@fake
class HalvesWhenFull(Instruction):
    """As 05 will: out of memory in the middle of a step, smaller parts, the same samples again."""

    def attach(self, loop: TrainingLoop) -> None:
        size = 32

        def split(batch: Batch) -> list[Part]:
            return split_batch(batch, size)

        def full(part: Part) -> None:
            if len(part.targets) > 10:
                raise MemoryError

        def retry(batch: Batch, gradients: Any) -> None:
            nonlocal size
            while True:
                try:
                    return gradients(batch)
                except MemoryError:
                    size //= 2

        loop.split = split
        loop.on("after_forward", full)
        loop.around("gradients", retry)


def test_a_step_can_be_tried_again_on_the_same_samples() -> None:
    loop = make_loop(HalvesWhenFull())
    assert close(loop.fit(), make_loop().fit())
    assert loop.step == 15


@fake
class TwoOptimizers(Instruction):
    """As 19 will: one optimizer for matrices, another for the rest."""

    def attach(self, loop: TrainingLoop) -> None:
        def build(parameters: Any) -> list[torch.optim.Optimizer]:
            every = list(parameters)
            return [
                torch.optim.SGD([p for p in every if p.ndim == 2], lr=0.1),
                torch.optim.AdamW([p for p in every if p.ndim < 2], lr=0.01),
            ]

        loop.build_optimizers = build


def test_an_instruction_may_bring_several_optimizers(tmp_path: Path) -> None:
    loop = make_loop(TwoOptimizers(), checkpoints=tmp_path)
    before = weights(loop.model)
    loop.fit()
    assert [type(optimizer).__name__ for optimizer in loop.optimizers] == ["SGD", "AdamW"]
    assert all(not torch.equal(before[name], value) for name, value in loop.model.state_dict().items())


@fake
class PoissonSampling(Instruction):
    """As 53 will: every sample joins a batch with its own coin."""

    def attach(self, loop: TrainingLoop) -> None:
        class Sampler:
            def indices(self, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
                return np.flatnonzero(np.random.default_rng([5, epoch]).random(130) < 0.5)

        assert isinstance(loop.loader, BatchLoader)
        loop.loader.sampler = Sampler()


def test_an_instruction_may_replace_the_sampler() -> None:
    loop = make_loop(PoissonSampling())
    seen: list[int] = []
    loop.on("batch_start", lambda batch: seen.append(len(batch.targets)))
    loop.fit()
    assert 0 < sum(seen) < 3 * 130


class Doubler(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.inner(inputs) * 2
        return output


@fake
class WrapsTheModel(Instruction):
    """As 21, 22 and 26 will: forward passes go through a wrapper that is not handed over."""

    def attach(self, loop: TrainingLoop) -> None:
        loop.wrap_model(Doubler)


def test_a_wrapped_model_is_trained_through_its_wrapper_and_handed_over_without() -> None:
    loop = make_loop(WrapsTheModel())
    trained = loop.fit()
    assert isinstance(loop.module, Doubler)
    assert isinstance(trained, nn.Sequential)
    assert not close(trained, make_loop().fit())


@fake
class MatchesFeatures(Instruction):
    """As 34 will: a further loss on intermediate features, through a projector that is trained too."""

    def attach(self, loop: TrainingLoop) -> None:
        teacher = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
        features: list[Tensor] = []
        projector = loop.companion(nn.Linear(8, 4))
        hook = loop.model[1].register_forward_hook(lambda module, inputs, output: features.append(output))

        def term(part: Part) -> None:
            part.terms.append(nn.functional.mse_loss(projector(features.pop()), part.inputs @ teacher))
            features.clear()

        loop.on("after_forward", term)
        loop.on("hand_over", hook.remove)


def test_extra_loss_terms_reach_the_model_and_their_own_projector() -> None:
    torch.manual_seed(0)
    loop = make_loop(MatchesFeatures())
    projector = next(loop.companions.children())
    before = weights(projector)
    trained = loop.fit()
    assert not torch.equal(before["weight"], projector.state_dict()["weight"])
    assert not close(trained, make_loop().fit())
    assert not trained[1]._forward_hooks


@fake
class Sharpness(Instruction):
    """As a sharpness-aware step: the gradient at a disturbed point, so two passes in a step."""

    def attach(self, loop: TrainingLoop) -> None:
        def twice(batch: Batch, gradients: Any) -> None:
            gradients(batch)
            parameters = loop.parameters()
            scale = 0.05 / torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            moved = [p.grad * scale for p in parameters if p.grad is not None]
            with torch.no_grad():
                torch._foreach_add_(parameters, moved)
            gradients(batch)
            with torch.no_grad():
                torch._foreach_sub_(parameters, moved)

        loop.around("gradients", twice)


def test_a_second_forward_and_backward_in_a_step() -> None:
    loop = make_loop(Sharpness(), micro_batch=8)
    assert not close(loop.fit(), make_loop(micro_batch=8).fit())
    assert loop.step == loop.updates == 15
    assert len(loop.history) == 3


@fake
class AttacksInputs(Instruction):
    """As 12 does: the gradient by the inputs, without leaving a trace in the parameters'."""

    def attach(self, loop: TrainingLoop) -> None:
        def attack(part: Part) -> None:
            assert isinstance(part.inputs, Tensor)
            probe = Part(part.inputs.clone().requires_grad_(), part.targets, part.weight)
            loop.forward(probe)
            assert probe.loss is not None
            (gradient,) = torch.autograd.grad(probe.loss, [probe.inputs])
            assert all(p.grad is None for p in loop.parameters())
            part.inputs = part.inputs + 0.1 * gradient.sign()

        loop.on("part_start", attack)


def test_adversarial_inputs_are_made_at_the_start_of_a_part() -> None:
    assert not close(make_loop(AttacksInputs()).fit(), make_loop().fit())


@fake
class GrowsInMidTraining(Instruction):
    """As 27 will: the model changes after the first epoch, and gains a parameter."""

    def attach(self, loop: TrainingLoop) -> None:
        def operate(model: nn.Module) -> None:
            model.register_parameter("gain", nn.Parameter(torch.ones(1)))
            model.register_forward_hook(scale)

        def scale(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return output * module.gain

        change = loop.surgery(operate)
        loop.on("epoch_end", lambda: change() if loop.epoch == 0 else None)


def test_surgery_in_mid_training_is_trained_and_replayed_on_resume(tmp_path: Path) -> None:
    whole = make_loop(GrowsInMidTraining()).fit()
    assert whole.gain.item() != 1.0
    interrupt(make_loop(GrowsInMidTraining(), checkpoints=tmp_path, checkpoint_every=1), step=8)
    resumed = make_loop(GrowsInMidTraining(), checkpoints=tmp_path, checkpoint_every=1).fit(resume=True)
    assert same(whole, resumed)


@fake
class Skips(Instruction):
    """As 16 and 18 will: some steps are not taken."""

    def attach(self, loop: TrainingLoop) -> None:
        loop.on("before_step", lambda batch: "every third" if loop.step % 3 == 0 else None)


def test_a_skipped_step_changes_nothing_and_the_next_handler_does_not_hear_of_it() -> None:
    loop = make_loop(Skips())
    heard, stepped, moved = [], [], []
    loop.on("before_step", lambda batch: heard.append(loop.step))
    loop.on("step_end", lambda batch: stepped.append(loop.step))
    loop.on("batch_start", lambda batch: moved.append(weights(loop.model)["0.weight"]))
    loop.fit()
    assert loop.skipped == {"every third": 5}
    assert loop.updates == 10
    assert heard == stepped == [step for step in range(15) if step % 3]
    assert torch.equal(moved[3], moved[4])
    assert not torch.equal(moved[4], moved[5])


def test_stopping_is_asked_and_may_be_refused() -> None:
    loop = make_loop(epochs=5)
    loop.on("evaluation", lambda metrics: loop.stop("enough"))
    loop.on("stopping", lambda reason: "not before epoch 2" if loop.epoch < 2 else None)
    loop.fit()
    assert loop.stopped == "enough"
    assert len(loop.history) == 3


@fake
class ShipsAverage(Instruction):
    """As 17 does: other weights are evaluated and shipped than those that are trained."""

    def attach(self, loop: TrainingLoop) -> None:
        @contextmanager
        def zeros() -> Iterator[None]:
            kept = copy.deepcopy(loop.model.state_dict())
            with torch.no_grad():
                for parameter in loop.model.parameters():
                    parameter.zero_()
            yield
            loop.model.load_state_dict(kept)

        loop.deploy_with(zeros)


def test_what_is_evaluated_is_what_is_shipped() -> None:
    loop = make_loop(ShipsAverage())
    shipped = loop.fit()
    assert all(not parameter.any() for parameter in shipped.parameters())
    assert all(parameter.any() for parameter in loop.model.parameters())
    assert loop.history[-1]["validation_loss"] == pytest.approx(np.log(2), abs=1e-6)


class Killed(BaseException):
    pass


def interrupt(loop: TrainingLoop, step: int) -> None:
    def kill(batch: Batch) -> None:
        if loop.step == step:
            raise Killed

    loop.on("batch_start", kill)
    with pytest.raises(Killed):
        loop.fit()


@pytest.mark.parametrize("step", [3, 5, 9, 14])
def test_resuming_is_bit_identical_to_never_having_stopped(tmp_path: Path, step: int) -> None:
    instructions = (TwoOptimizers(), Sharpness(), AttacksInputs(), Skips())
    whole = make_loop(*instructions, dropout=0.3)
    expected = whole.fit()
    options: dict[str, Any] = {"dropout": 0.3, "checkpoints": tmp_path, "checkpoint_every": 2}
    interrupt(make_loop(*instructions, **options), step)
    loop = make_loop(*instructions, **options)
    started: list[int] = []
    loop.on("epoch_start", lambda: started.append(loop.epoch))
    assert same(expected, loop.fit(resume=True))
    assert loop.history == whole.history
    assert loop.skipped == whole.skipped
    assert len(started) == len(set(started))


@pytest.mark.parametrize("step", [3, 7])
def test_a_users_own_shuffling_loader_resumes_too(tmp_path: Path, step: int) -> None:
    def loop(**options: Any) -> TrainingLoop:
        data = torch.utils.data.TensorDataset(INPUTS, TARGETS)
        batches = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
        return TrainingLoop(
            network(0.2), batches, nn.functional.cross_entropy, epochs=2, device="cpu", **options
        )

    expected = loop().fit()
    interrupt(loop(checkpoints=tmp_path, checkpoint_every=1), step)
    assert same(expected, loop(checkpoints=tmp_path, checkpoint_every=1).fit(resume=True))


def test_a_checkpoint_of_other_instructions_or_another_model_is_refused(tmp_path: Path) -> None:
    make_loop(checkpoints=tmp_path, epochs=1).fit()
    other = TrainingLoop(
        nn.Linear(6, 2), loader(), nn.functional.cross_entropy, checkpoints=tmp_path, device="cpu"
    )
    with pytest.raises(BadInput, match=r"of another model; these keys differ: 0\.bias, 0\.weight, 3\.bias"):
        other.fit(resume=True)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    make_loop(checkpoints=tmp_path, epochs=1).fit()
    file = tmp_path / "last.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadInput, match="does not match its hash"):
        make_loop(checkpoints=tmp_path, epochs=2).fit(resume=True)


def test_a_loss_that_is_not_finite_stops_training_before_the_weights_are_spoilt() -> None:
    loop = make_loop()

    def poison(batch: Batch) -> None:
        if loop.step == 4:
            batch.inputs = batch.inputs * float("nan")

    loop.on("batch_start", poison)
    with pytest.raises(RunFailed, match=r"not finite at step 4 \(epoch 0, learning rate 0.02\); try a tenth"):
        loop.fit()
    assert all(torch.isfinite(parameter).all() for parameter in loop.model.parameters())


def test_several_inputs_go_to_the_model_by_name() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            output: Tensor = self.layer(left + right)
            return output

    batches = [({"left": INPUTS, "right": INPUTS}, TARGETS)]
    loop = TrainingLoop(Sum(), batches, nn.functional.cross_entropy, epochs=2, micro_batch=50, device="cpu")
    loop.fit()
    assert loop.history[1]["loss"] < loop.history[0]["loss"]


def test_an_unknown_event_or_phase_is_named() -> None:
    loop = make_loop()
    with pytest.raises(ValueError, match="unknown event 'batch_end'; there is ready"):
        loop.on("batch_end", print)
    with pytest.raises(ValueError, match="unknown phase 'step'; there is gradients"):
        loop.around("step", print)


def test_instructions_without_a_training_door_or_given_twice_are_refused() -> None:
    import fulldeck as fd

    with pytest.raises(BadInput, match="onnx_export does nothing in training; use its function, or a recipe"):
        make_loop(fd.OnnxExport())
    with pytest.raises(BadInput, match="lr_scheduler may stand only once"):
        make_loop(fd.LrScheduler(), fd.LrScheduler(kind="linear"))
    with pytest.raises(BadInput, match=r"must be objects such as LrScheduler\(\), got 'lr_scheduler'"):
        make_loop("lr_scheduler")  # type: ignore[arg-type]
