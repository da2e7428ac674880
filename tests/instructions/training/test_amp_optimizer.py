from functools import partial

import pytest
import torch
from torch import nn

from fulldeck.errors import BadInput, CannotAct, RunFailed
from fulldeck.instruction import Situation
from fulldeck.instructions.training import amp_optimizer
from fulldeck.instructions.training.amp_optimizer import (
    FASTER,
    OVERFLOW,
    AmpOptimizer,
    keep_in_float32,
    low_precision_share,
    mixed_precision,
    pick_dtype,
    time_in_bfloat16,
)
from fulldeck.instructions.training.amp_optimizer.float8 import Float8Layers, refuse_float8
from fulldeck.instructions.training.amp_optimizer.parity import module_to_keep
from fulldeck.training.loop import TrainingLoop
from tests.interruption import interrupt


def batches(count=6, size=16):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, size, 3, 6, 6, generator=generator)
    return [(batch, (batch.mean((1, 2, 3)) > 0).long()) for batch in inputs]


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(128, 2)
    )


def loop(*instructions, net=None, **settings):
    settings = {"optimizer": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True), "device": "cpu", **settings}
    return TrainingLoop(
        model() if net is None else net,
        batches(),
        nn.functional.cross_entropy,
        instructions=instructions,
        **settings,
    )


class Seen(nn.Module):
    """Notes the dtypes that pass through it."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def forward(self, x):
        self.dtypes.add(x.dtype)
        return x


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_training_computes_low_and_hands_over_float32(dtype):
    seen = Seen()
    training = loop(AmpOptimizer(dtype=dtype), net=model().append(seen), epochs=2, validation=batches(1))
    low, full = getattr(torch, dtype), torch.float32
    losses = []
    training.on("after_forward", lambda part: losses.append(part.loss.dtype))
    fitted = training.fit()
    assert seen.dtypes == {low, full}  # full: the evaluation, as deployed
    assert set(losses) == {full}
    assert {p.dtype for p in fitted.parameters()} == {full}
    assert training.reported["amp_optimizer"]["low_precision_flops"] == {"before": 0.0, "after": 1.0}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_learns_what_float32_learns(dtype):
    plain, mixed = loop(epochs=5), loop(AmpOptimizer(dtype=dtype), epochs=5)
    plain.fit()
    mixed.fit()
    assert mixed.history[-1]["loss"] < 0.5 * mixed.history[0]["loss"]
    for one, other in zip(plain.history, mixed.history, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.1, abs=0.01)


class Planted:
    """A loss so large in some steps that its float16 gradient overflows."""

    def __init__(self, steps, factor=1e6):
        self.steps, self.factor = steps, factor

    def attach(self, loop):
        loop.on("after_forward", lambda part: self.add(part) if loop.step in self.steps else None)

    def add(self, part):
        part.terms.append(part.outputs.float().sum() * self.factor)


def test_an_overflow_skips_the_step_and_pollutes_nothing():
    training = loop(AmpOptimizer(dtype="float16"))
    Planted({2}).attach(training)
    snapshots, stepped = [], []

    def snapshot(batch):
        optimizer = training.optimizers[0]
        tensors = list(training.model.parameters())
        tensors += [value for state in optimizer.state.values() for value in state.values()]
        snapshots.append([t.detach().clone() for t in tensors])

    training.on("batch_start", snapshot)
    training.on("step_end", lambda batch: stepped.append(training.step))
    fitted = training.fit()
    assert training.skipped == {OVERFLOW: 1}
    assert stepped == [0, 1, 3, 4, 5]
    assert all(torch.equal(a, b) for a, b in zip(snapshots[2], snapshots[3], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(snapshots[3][:1], snapshots[4][:1], strict=True))
    assert all(parameter.isfinite().all() for parameter in fitted.parameters())
    assert float(training.loss_scale) == 32768


def test_the_scale_grows_after_quiet_steps():
    training = loop(AmpOptimizer(dtype="float16", initial_scale=4.0, growth_interval=2))
    training.fit()
    assert float(training.loss_scale) == 16


def test_gradients_are_unscaled_and_can_be_computed_twice():
    gradients = []

    class Twice:
        def attach(self, loop):
            loop.around("gradients", self.run)
            self.loop = loop

        def run(self, batch, inner):
            for _ in range(2):
                inner(batch)
                gradients.append(self.loop.model[-1].bias.grad.clone())

    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    training = loop(net=net, max_steps=1, micro_batch=4)
    Twice().attach(training)
    training.attach(AmpOptimizer(dtype="float16"), "amp_optimizer")
    expected = torch.autograd.grad(
        nn.functional.cross_entropy(net(batches(1)[0][0]), batches(1)[0][1]), net[-1].bias
    )[0]
    training.fit()
    assert torch.equal(*gradients)
    torch.testing.assert_close(gradients[0], expected, rtol=1e-2, atol=1e-3)


def test_an_activation_that_overflows_into_batch_norm_ends_the_run():
    training = loop(AmpOptimizer(dtype="float16"))

    def enlarge(part):
        part.inputs = part.inputs * (3e4 if training.step == 2 else 1)

    training.on("part_start", enlarge)
    with pytest.raises(RunFailed, match=r"overflowed float16 at step 2 and reached 1.running_mean"):
        training.fit()


def test_a_gradient_that_is_never_finite_ends_the_run():
    training = loop(AmpOptimizer(dtype="float16"), epochs=9)
    Planted(range(1000), factor=float("nan")).attach(training)
    with pytest.raises(RunFailed, match=r"not finite at step 16.*bfloat16"):
        training.fit()


@pytest.mark.parametrize("pattern", ["5", "Linear", "[5-9]"])
def test_a_module_kept_in_float32(pattern):
    training = loop(AmpOptimizer(dtype="bfloat16", keep_fp32=(pattern,)))
    outputs = set()
    training.on("after_forward", lambda part: outputs.add(part.outputs.dtype))
    fitted = training.fit()
    assert outputs == {torch.float32}
    share = training.reported["amp_optimizer"]["low_precision_flops"]["after"]
    # 16 x 8 x 3 x 9 x 16 multiplications of the convolution twice (its input needs no gradient), the
    # linear layer's 128 x 2 x 16 three times.
    conv, linear = 2 * 16 * 16 * 8 * 27, 3 * 16 * 128 * 2
    assert share == pytest.approx(conv / (conv + linear))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in fitted.modules())


def test_an_error_in_a_kept_module_leaves_autocast_as_it_was():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    release = keep_in_float32(net, ["1"])
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(RuntimeError, match="shapes"):
            net[1](torch.zeros(2, 3))
        assert torch.is_autocast_enabled("cpu")
    release()
    with torch.autocast("cpu", torch.bfloat16):
        assert net(torch.zeros(2, 4)).dtype == torch.bfloat16


def test_a_pattern_that_matches_nothing():
    with pytest.raises(BadInput, match=r'no module matches "Linaer"; did you mean Linear\?'):
        loop(AmpOptimizer(keep_fp32=("Linaer",)))


def test_kept_modules_follow_a_changed_model():
    training = loop(AmpOptimizer(dtype="bfloat16", keep_fp32=("Linear",)), epochs=2)

    class Widen:
        def attach(self, loop):
            operate = loop.surgery(lambda model: model.append(nn.Linear(2, 2)))
            loop.on("epoch_start", lambda: operate() if loop.epoch == 1 else None)

    Widen().attach(training)
    outputs = []
    training.on("after_forward", lambda part: outputs.append(part.outputs.dtype))
    training.fit()
    assert set(outputs) == {torch.float32}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_resume_is_bit_exact(dtype, channels_last, tmp_path):
    def training(folder):
        built = loop(
            AmpOptimizer(dtype=dtype, channels_last=channels_last, growth_interval=3),
            epochs=3,
            checkpoints=folder,
            checkpoint_every=4 if folder else None,
        )
        Planted({5, 13}).attach(built)
        return built

    whole = training(None)
    expected = whole.fit().state_dict()
    interrupt(training(tmp_path), 10)
    resumed = training(tmp_path)
    state = resumed.fit(resume=True).state_dict()
    assert resumed.skipped == whole.skipped
    assert all(torch.equal(expected[name], state[name]) for name in expected)


def test_channels_last_is_undone_at_hand_over():
    fitted = loop(AmpOptimizer(dtype="bfloat16", channels_last=True)).fit()
    assert all(parameter.is_contiguous() for parameter in fitted.parameters())


def test_the_share_counts_matrix_products_convolutions_and_attention():
    def attention(dtype):
        query = torch.randn(1, 2, 16, 8, dtype=dtype, requires_grad=True)
        nn.functional.scaled_dot_product_attention(query, query, query).sum().backward()

    matrix = torch.ones(16, 16)
    assert low_precision_share(lambda: attention(torch.bfloat16)) == 1.0
    assert low_precision_share(lambda: attention(torch.float32)) == 0.0
    assert low_precision_share(lambda: (matrix @ matrix, matrix.bfloat16() @ matrix.bfloat16())) == 0.5
    assert low_precision_share(lambda: matrix + matrix) == 0.0


def test_counting_does_not_change_the_numbers():
    results = []
    for count in (False, True):
        torch.manual_seed(0)
        net, (inputs, targets) = model(), batches(1)[0]

        def step(net=net, inputs=inputs, targets=targets):
            with mixed_precision(net, dtype="bfloat16"):
                loss = nn.functional.cross_entropy(net(inputs), targets)
            loss.backward()

        if count:
            low_precision_share(step)
        else:
            step()
        results.append([parameter.grad for parameter in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_plain_attention_is_the_same_attention():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.head = nn.Linear(18, 24), nn.Linear(8, 2)

        def forward(self, x):
            query, key, value = self.mix(x.reshape(len(x), 1, 6, 18)).chunk(3, dim=3)
            return self.head(nn.functional.scaled_dot_product_attention(query, key, value).mean((1, 2)))

    def losses(**parameters):
        torch.manual_seed(0)
        training = loop(AmpOptimizer(dtype="bfloat16", **parameters), net=Attention(), epochs=2)
        training.fit()
        return [epoch["loss"] for epoch in training.history], training.reported["amp_optimizer"]

    (fused, share), (plain, plain_share) = losses(), losses(attention="plain")
    assert plain == pytest.approx(fused, rel=1e-2)
    for figures in (share, plain_share):
        assert figures["low_precision_flops"] == {"before": 0.0, "after": 1.0}
    assert not torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()


def test_where_it_cannot_act():
    cpu = Situation(kind="image", task="classification", device="cpu")
    gpu = Situation(kind="image", task="classification", device="cuda")
    assert "write dtype: bfloat16" in AmpOptimizer(dtype="float16").cannot(cpu)
    assert AmpOptimizer(dtype="float16").cannot(gpu) is None
    assert AmpOptimizer(dtype="bfloat16").cannot(cpu) is None
    assert AmpOptimizer().cannot(gpu) is None


def test_auto_leaves_bfloat16_where_this_processor_is_slower_by_it():
    cpu = Situation(kind="image", task="classification", device="cpu")
    reason = AmpOptimizer().cannot(cpu)
    if torch.cpu._is_avx512_bf16_supported() and time_in_bfloat16() > FASTER:
        assert "as long in bfloat16 as in float32 on this processor" in reason
    elif torch.cpu._is_avx512_bf16_supported():
        assert reason is None


def test_half_precision_weights_are_refused():
    with pytest.raises(BadInput, match="must be float32"):
        loop(AmpOptimizer(), net=model().half())


def test_auto_is_bfloat16_on_a_cpu():
    assert pick_dtype("auto", torch.device("cpu")) == torch.bfloat16


class Delicate(nn.Module):
    """The difference of two large numbers: nothing is left of it in eight bits of mantissa."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, x):
        return (self.mix(x) + 1000 - 1000) * 30


def delicate():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Sequential(nn.Linear(108, 8), nn.BatchNorm1d(8), Delicate(), nn.Dropout(0.5)),
        nn.Linear(8, 2),
    )


def test_a_loss_that_is_another_in_few_bits_names_the_module_to_keep():
    net = delicate()
    training = loop(AmpOptimizer(dtype="bfloat16"), net=net)
    before = net[1][1].running_mean.clone()
    with pytest.raises(RunFailed) as told:
        training.fit()
    text = str(told.value)
    assert text.startswith("amp_optimizer: the loss of the first batch is ")
    assert " in bfloat16 and " in text
    assert "; write keep_fp32: [1.2.mix], with which it is " in text
    assert training.updates == 0
    assert torch.equal(net[1][1].running_mean, before)
    training = loop(AmpOptimizer(dtype="bfloat16", keep_fp32=("1.2.mix",)), net=delicate(), epochs=2)
    training.fit()
    losses = training.reported["amp_optimizer"]["first_loss"]
    assert losses["after"] == pytest.approx(losses["before"], rel=0.05)


def test_the_smallest_module_that_is_enough():
    net = nn.ModuleDict({"blocks": nn.ModuleList([Delicate(), Delicate()]), "head": nn.Linear(8, 2)})

    def loss(kept):
        return 1.0 if any("blocks.1.mix".startswith(name) for name in kept) else 2.0

    assert module_to_keep(net, 1.0, loss, 0.05) == ("blocks.1.mix", 1.0)
    assert module_to_keep(net, 1.0, lambda kept: float("nan"), 0.05) is None


def test_where_float8_is_not_to_be_had():
    text = "float8 needs an NVIDIA GPU of compute capability 8.9 or newer; write dtype: bfloat16"
    cpu = Situation(kind="image", task="classification", device="cpu")
    assert AmpOptimizer(dtype="float8").cannot(cpu) == refuse_float8(torch.device("cpu")) == text
    with pytest.raises(CannotAct, match=text):
        loop(AmpOptimizer(dtype="float8"))
    with pytest.raises(CannotAct, match=text), mixed_precision(model(), dtype="float8"):
        pass


def wide():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 2))


@pytest.fixture
def float8(monkeypatch):
    """As on a GPU that has it; the arithmetic is torchao's emulation."""
    monkeypatch.setattr(amp_optimizer, "refuse_float8", lambda device: None)
    monkeypatch.setattr(amp_optimizer, "Float8Layers", partial(Float8Layers, emulate=True))


def test_float8_is_for_linear_layers_of_fitting_size_and_does_not_outlive_training(float8):
    net = wide()
    exact = net[3]
    training = loop(AmpOptimizer(dtype="float8"), net=net, epochs=5, validation=batches(1))
    kinds = [type(layer).__name__ for layer in net]
    assert kinds == ["Flatten", "Linear", "ReLU", "Float8Linear", "Linear"]
    seen = set()
    training.on("after_forward", lambda part: seen.add(type(net[3]).__name__))
    fitted = training.fit()
    assert seen == {"Float8Linear"}
    assert net[3] is exact
    assert type(fitted[3]) is nn.Linear
    assert training.history[-1]["loss"] < 0.5 * training.history[0]["loss"]
    losses = training.reported["amp_optimizer"]["first_loss"]
    assert losses["after"] != losses["before"]
    assert losses["after"] == pytest.approx(losses["before"], rel=0.05)
    plain = loop(net=wide(), epochs=5)
    plain.fit()
    assert training.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], abs=0.05)


def test_layers_kept_out_of_float8(float8):
    training = loop(AmpOptimizer(dtype="float8", keep_fp32=("1",)), net=wide())
    assert type(training.model[3]).__name__ == "Float8Linear"
    with pytest.raises(CannotAct, match="sizes are multiples of 16; there is none"):
        loop(AmpOptimizer(dtype="float8", keep_fp32=("3",)), net=wide())
    net = wide()
    with mixed_precision(net, dtype="float8"):
        net(batches(1)[0][0]).float().sum().backward()
    assert net[3].weight.grad is not None
    assert type(net[3]) is nn.Linear
