import os

import pytest
import torch
from torch import nn

from fulldeck.errors import CannotAct
from fulldeck.instructions.training.amp_optimizer import AmpOptimizer
from fulldeck.instructions.training.gradient_checkpointing import GradientCheckpointing
from fulldeck.instructions.training.gradient_stabilization import GradientStabilization
from fulldeck.instructions.training.parameter_efficient_finetuning import ParameterEfficientFinetuning
from fulldeck.instructions.training.train_step_compilation import (
    TrainStepCompilation,
    compile_model,
    pad_to_multiple,
)
from fulldeck.instructions.training.weight_averaging import WeightAveraging
from fulldeck.networks.gpt import Gpt
from fulldeck.training.loop import TrainingLoop
from fulldeck.training.token_mean import IGNORED
from tests.interruption import interrupt

INPUTS = torch.randn(90, 8, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS.sum(1) > 0).long()
LABEL = "train_step_compilation"


@pytest.fixture(autouse=True)
def _alone():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.compiler.reset()
    yield
    torch.set_num_threads(threads)


class Block(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.layer, self.norm, self.dropout = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(dropout)
        self.as_it_is = 0

    def forward(self, x):
        if not torch.compiler.is_compiling():
            self.as_it_is += 1
        return x + self.dropout(self.norm(self.layer(x)))


def network(blocks=2, dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(*(Block(dropout) for _ in range(blocks)), nn.Linear(8, 2))


def step(**parameters):
    """Traced and differentiated as ever, but not turned into machine code, which would take a minute."""
    return TrainStepCompilation(**{"backend": "aot_eager", "measure": False, **parameters})


def training(*instructions, net=None, **settings):
    data = torch.utils.data.TensorDataset(INPUTS, TARGETS)
    settings = {"epochs": 3, "optimizer": lambda p: torch.optim.AdamW(p, lr=0.01), **settings}
    return TrainingLoop(
        network() if net is None else net,
        torch.utils.data.DataLoader(data, batch_size=16, shuffle=True),
        nn.functional.cross_entropy,
        instructions=instructions,
        device="cpu",
        **settings,
    )


def compilations(loop):
    return loop.reported[LABEL]["compilations"]["after"]


def test_training_is_compiled_and_what_is_evaluated_and_handed_over_is_not():
    net = network()
    loop = training(step(), net=net, validation=[(INPUTS, TARGETS)])
    tried = net[0].as_it_is
    fitted = loop.fit()
    plain = training().fit()
    for one, other in zip(fitted.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    # Each of three epochs has a ragged last batch, and an evaluation.
    assert net[0].as_it_is - tried == 3 * 2
    assert compilations(loop) == 1
    assert all(module._compiled_call_impl is None for module in (*fitted.modules(), *net.modules()))


def test_the_trial_leaves_no_trace():
    plain, tried = network(), network()
    random = torch.get_rng_state()
    loop = training(step(), net=tried)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), loop.model.buffers(), strict=True))
    assert all(parameter.grad is None for parameter in loop.model.parameters())


def test_a_stack_of_equal_blocks_is_compiled_by_the_block():
    assert compile_model(network(3), backend="eager").names == [""]
    assert compile_model(network(9), backend="eager").names == [str(place) for place in range(9)]
    assert compile_model(network(2), "blocks", backend="eager").names == ["0", "1"]
    with pytest.raises(CannotAct, match="no repeated blocks; write region: model"):
        compile_model(nn.Linear(2, 2), "blocks")
    loop = training(step(region="blocks"))
    fitted = loop.fit()
    assert compilations(loop) == 2  # the first one's input is data, and needs no gradient
    assert all(module._compiled_call_impl is None for module in fitted.modules())


def test_a_rare_shape_is_compiled_when_it_has_come_often_and_only_so_many_are():
    net = network()
    loop = training(step(compile_after=2), net=net, epochs=3)
    tried = net[0].as_it_is
    loop.fit()
    assert net[0].as_it_is - tried == 1  # the first ragged batch; the second one is compiled
    assert compilations(loop) == 2
    torch.compiler.reset()
    loop = training(step(compile_after=1, shapes=1))
    loop.fit()
    assert compilations(loop) == 1


def test_it_refuses_where_it_is_slower(monkeypatch):
    from fulldeck.instructions.training.train_step_compilation import trial

    monkeypatch.setattr(trial, "WORTH_IT", 0.0)
    loop = training()
    with pytest.raises(CannotAct, match=r"take .* ms compiled and .* ms as they are; measure: false"):
        loop.attach(step(measure=True), LABEL)
    fitted, plain = loop.fit(), training().fit()
    assert all(torch.equal(a, b) for a, b in zip(fitted.parameters(), plain.parameters(), strict=True))


def test_it_says_when_the_time_is_won_back(monkeypatch):
    from fulldeck.instructions.training.train_step_compilation import trial

    times = iter([1.0, 0.1, 9.0] + [0.1, 0.05] * trial.ROUNDS)
    monkeypatch.setattr(trial.Compilation, "step", lambda self, part: (next(times), 0.5))
    loop = training(step(measure=True))
    loop.fit()
    figures = loop.reported[LABEL]
    assert figures["compile_seconds"]["after"] == pytest.approx(8.9)
    assert figures["forward_backward_ms"] == {"before": 100.0, "after": 50.0}
    assert figures["break_even_steps"]["after"] == 180
    assert loop.notes == [f"{LABEL}: compiling is won back after 180 steps, and this run had 18"]


def test_a_compiler_that_fails_is_told_in_one_line():
    with pytest.raises(
        CannotAct, match="the compiler failed on this model: Invalid backend: 'no_such'"
    ) as told:
        training(step(backend="no_such"))
    assert "\n" not in str(told.value)

    with pytest.raises(CannotAct, match=r"the compiler failed on this model: .*planted"):
        training(step(backend="fails"))


@torch._dynamo.register_backend
def fails(graph, inputs):
    raise ValueError("planted")


def test_a_shape_that_the_compiler_fails_on_runs_as_it_is():
    batches = [(INPUTS[:rows], TARGETS[:rows]) for rows in (8, 5, 8, 5, 5)]

    def fit(*instructions):
        torch.manual_seed(0)
        loop = TrainingLoop(
            network(), batches, nn.functional.cross_entropy, instructions=instructions, epochs=2, device="cpu"
        )
        loop.fit()
        return loop

    compiled, plain = fit(step(backend="fails_on_five", compile_after=1)), fit()
    (note,) = [note for note in compiled.notes if "run as they are" in note]
    assert note.startswith("train_step_compilation: the compiler failed on batches of 5 x ")
    assert note.endswith("planted for five rows")
    for one, other in zip(compiled.history, plain.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


@torch._dynamo.register_backend
def fails_on_five(graph, inputs):
    if any(isinstance(one, torch.Tensor) and one.ndim == 2 and len(one) == 5 for one in inputs):
        raise ValueError("planted for five rows")
    return graph


def test_with_optional_a_run_goes_on_without(tmp_path):
    import fulldeck as fd

    file = tmp_path / "recipe.yaml"
    entry = "train_step_compilation: {backend: fails, optional: true}"
    file.write_text(
        f"workload: digits\ntrain: {{epochs: 1, max_steps: 1, threads: 1}}\ninstructions:\n  - {entry}\n"
    )
    result = fd.run(file, out=tmp_path)
    assert result["instructions"][0]["status"] == "skipped"
    assert "planted" in result["instructions"][0]["reason"]
    file.write_text(file.read_text().replace(", optional: true", ""))
    with pytest.raises(fd.BadInput, match=r"the compiler failed.*or write optional: true"):
        fd.run(file, out=tmp_path)


@pytest.mark.parametrize("stop", [4, 11])
def test_resume_is_bit_exact(stop, tmp_path):
    def built(folder):
        return training(
            step(compile_after=2),
            net=network(dropout=0.2),
            checkpoints=folder,
            checkpoint_every=2 if folder else None,
        )

    expected = built(None).fit().state_dict()
    interrupt(built(tmp_path), stop)
    state = built(tmp_path).fit(resume=True).state_dict()
    assert all(torch.equal(expected[name], state[name]) for name in expected)


def test_a_run_that_was_compiled_goes_on_compiled(monkeypatch, tmp_path):
    from fulldeck.instructions.training.train_step_compilation import trial

    training(step(), checkpoints=tmp_path, epochs=1).fit()
    monkeypatch.setattr(trial, "WORTH_IT", 0.0)
    net = network()
    loop = training(net=net, checkpoints=tmp_path, epochs=2)
    with pytest.raises(CannotAct):
        loop.attach(step(measure=True), LABEL)
    tried = net[0].as_it_is
    loop.fit(resume=True)
    assert net[0].as_it_is - tried == 1  # the ragged batch


def test_lengths_are_padded_to_buckets_without_changing_the_loss():
    torch.manual_seed(0)
    batches = []
    for length in (9, 12, 15, 13, 10, 16):
        ids = torch.randint(1, 50, (4, length + 1))
        batches.append((ids[:, :-1], ids[:, 1:].clone()))

    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    loss.weigh = lambda targets: float((targets != IGNORED).sum())

    def fit(*instructions):
        torch.manual_seed(0)
        model = Gpt(50, 16, width=8, layers=1, heads=2)
        loop = TrainingLoop(model, batches, loss, instructions=instructions, epochs=2, device="cpu")
        loop.fit()
        return loop

    padded, plain = fit(step(bucket=8)), fit()
    assert compilations(padded) == 1
    for one, other in zip(padded.history, plain.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)

    inputs, targets = pad_to_multiple(
        {"ids": torch.ones(2, 5).long(), "mask": torch.ones(2, 5).long()}, None, 4
    )
    assert inputs["ids"].shape == (2, 8)
    assert inputs["mask"].sum() == 10
    assert targets is None


def test_a_model_that_looks_at_padding_is_refused():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(1), nn.AdaptiveAvgPool1d(2))
    batch = [(torch.randint(1, 9, (4, 6)), torch.zeros(4).long())]
    loop = TrainingLoop(model, batch, nn.functional.cross_entropy, device="cpu")
    with pytest.raises(CannotAct, match="the model looks at padding"):
        loop.attach(step(bucket=4), LABEL)


@pytest.mark.parametrize(
    "other",
    [AmpOptimizer(dtype="bfloat16"), ParameterEfficientFinetuning(rank=2)],
    ids=lambda other: other.card.name,
)
def test_what_changes_the_computation_goes_first_or_it_is_compiled_twice(other):
    net = network()
    right = training(other, step(), net=net)
    right.fit()
    assert net[0].as_it_is < 10
    torch.compiler.reset()
    wrong = training(step(), other)
    wrong.fit()
    assert compilations(right) < compilations(wrong)
    assert right.history[-1]["loss"] < right.history[0]["loss"]


def test_recomputation_is_compiled_too():
    loop = training(GradientCheckpointing(), step())
    fitted, plain = loop.fit(), training().fit()
    for one, other in zip(fitted.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_blocks_that_are_checkpointed_already_are_not_compiled_anew(tmp_path):
    loop = training(GradientCheckpointing(), step(), checkpoints=tmp_path, epochs=1)
    loop.fit()
    assert compilations(loop) == 1
    torch.compiler.reset()
    resumed = training(GradientCheckpointing(), step(), checkpoints=tmp_path, epochs=2)
    tried = resumed.states[LABEL].compilations
    resumed.fit(resume=True)
    assert resumed.states[LABEL].compilations == tried == 1


def test_a_hook_of_one_of_equal_blocks_is_called():
    net, heard = network(), []
    net[1].register_forward_hook(lambda module, inputs, output: heard.append(output.shape))
    loop = training(step(region="blocks"), net=net, epochs=1)
    heard.clear()
    loop.fit()
    assert len(heard) == loop.step


def test_blocks_are_measured_without_compiling_anew():
    loop = training(GradientCheckpointing(budget="1TiB"), step(), epochs=1)
    loop.fit()
    assert loop.reported["gradient_checkpointing"]["checkpointed_blocks"]["after"] == 0
    assert compilations(loop) == 2  # with all blocks recomputed, and with none


def test_a_fault_is_found_without_compiling_anew():
    class Log(nn.Module):
        def forward(self, x):
            return (x + 9).log()

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), Log(), nn.Linear(8, 2))
    loop = training(GradientStabilization(), step(), net=net, epochs=1)
    loop.on("batch_start", lambda batch: batch.inputs.mul_(1e3 if loop.step == 2 else 1))
    loop.fit()
    assert "first to go wrong was the output of 1 (Log) (at step 2" in loop.notes[0]
    assert compilations(loop) == 1


def test_average_mixed_precision_and_adapters_together():
    loop = training(
        WeightAveraging(decay=0.9, unless_worse=False),
        ParameterEfficientFinetuning(rank=2),
        AmpOptimizer(dtype="bfloat16", keep_fp32=("BatchNorm1d",)),
        step(),
        validation=[(INPUTS, TARGETS)],
    )
    fitted = loop.fit().eval()
    assert loop.history[-1]["loss"] < loop.history[0]["loss"]
    assert nn.functional.cross_entropy(fitted(INPUTS), TARGETS).item() == pytest.approx(
        loop.history[-1]["validation_loss"], abs=1e-4
    )


@pytest.mark.slow
def test_machine_code_is_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    loop = training(step(backend="inductor", cache=str(tmp_path / "compiled")))
    loop.fit()
    assert any((tmp_path / "compiled").rglob("*.so"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == ""  # others have theirs again
    assert loop.history[-1]["loss"] == pytest.approx(_history()[-1]["loss"], rel=1e-3)


def _history():
    plain = training()
    plain.fit()
    return plain.history
