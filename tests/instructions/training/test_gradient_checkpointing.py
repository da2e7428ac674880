import copy
import gc
import os
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fulldeck.blocks import repeated_blocks
from fulldeck.errors import BadInput, CannotAct
from fulldeck.instructions.training.amp_optimizer import AmpOptimizer
from fulldeck.instructions.training.gradient_checkpointing import (
    GradientCheckpointing,
    block_costs,
    blocks_to_checkpoint,
    checkpoint_blocks,
)
from fulldeck.instructions.training.gradient_checkpointing.costs import BlockCost
from fulldeck.memory import memory_in_use, parse_bytes, spoken_bytes
from fulldeck.networks.gpt import Gpt
from fulldeck.networks.residual_net import ResidualNet
from fulldeck.training.loop import TrainingLoop
from tests.interruption import interrupt

CPU = torch.device("cpu")
TOKENS = torch.randint(0, 50, (4, 16), generator=torch.Generator().manual_seed(0))
IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gpt():
    torch.manual_seed(1)
    return Gpt(50, 16, width=16, layers=4, heads=2, dropout=0.2)


def net():
    torch.manual_seed(1)
    return ResidualNet(1, 3, widths=(4, 8))


def gradients(model, inputs):
    torch.manual_seed(2)
    model.zero_grad()
    model(inputs).square().mean().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def equal(some, others):
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def saved_bytes(model, inputs):
    seen = {}

    def pack(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        outputs = model(inputs)
    assert outputs.requires_grad
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    return sum(count for storage, count in seen.items() if storage not in weights)


# The plain function ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["nothing", "attention", "products"])
@pytest.mark.parametrize(("make", "inputs"), [(gpt, TOKENS), (net, IMAGES)], ids=["dropout", "batch_norm"])
def test_gradients_and_buffers_are_exactly_those_without_it(make, inputs, keep):
    plain, other = make(), make()
    checkpoint_blocks(other, keep=keep)
    for _ in range(2):
        assert equal(gradients(plain, inputs), gradients(other, inputs))
        assert equal(plain.buffers(), other.buffers())


def test_gradients_are_exact_under_autocast():
    plain, other = gpt(), gpt()
    checkpoint_blocks(other)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [model(TOKENS).float().square().mean() for model in (plain, other) if torch.manual_seed(2)]
    for loss in losses:
        loss.backward()
    assert equal((p.grad for p in plain.parameters()), (p.grad for p in other.parameters()))


class Observer(nn.Module):
    """As an observer of quantisation: what it has seen before decides what comes out."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("largest", torch.ones(()))

    def forward(self, x):
        self.largest.copy_(torch.maximum(self.largest, x.detach().abs().max()) * 1.5)
        return self.linear(x / self.largest).tanh()


def test_a_block_that_goes_by_its_own_buffers_is_recomputed_as_it_was():
    torch.manual_seed(0)
    plain = nn.Sequential(*(nn.Sequential(Observer()) for _ in range(3)))
    other = copy.deepcopy(plain)
    checkpoint_blocks(other)
    inputs = torch.randn(5, 4)
    for _ in range(2):
        assert equal(gradients(plain, inputs), gradients(other, inputs))
        assert equal(plain.buffers(), other.buffers())


def test_a_second_backward_through_the_same_graph_is_exact_too():
    plain, other = net(), net()
    checkpoint_blocks(other)
    for model in (plain, other):
        loss = model(IMAGES).square().mean()
        loss.backward(retain_graph=True)
        loss.backward()
    assert equal((p.grad for p in plain.parameters()), (p.grad for p in other.parameters()))
    assert equal(plain.buffers(), other.buffers())


def test_only_the_inputs_of_blocks_are_kept():
    plain = saved_bytes(gpt(), TOKENS)
    model = gpt()
    checkpointed = checkpoint_blocks(model)
    assert saved_bytes(model, TOKENS) < plain / 4
    checkpointed.remove()
    assert saved_bytes(model, TOKENS) == plain
    checkpoint_blocks(model, every=2)
    assert plain / 4 < saved_bytes(model, TOKENS) < 0.7 * plain


class Calls(TorchDispatchMode):
    """Counts the calls of each operator."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def calls(keep):
    model = gpt()
    if keep is not None:
        checkpoint_blocks(model, keep=keep)
    with Calls() as counted:
        gradients(model, TOKENS)
    count = counted.count
    return count["addmm"], count["_scaled_dot_product_flash_attention_for_cpu"], count["gelu"]


def test_what_is_kept_is_not_computed_again():
    assert calls(None) == (*calls("products")[:2], 4) == (16, 4, 4)
    assert calls("products")[2] == 8
    assert calls("attention") == (32, 4, 8)
    assert calls("nothing") == (32, 8, 8)


def test_evaluation_costs_nothing_and_copies_stand_on_their_own():
    model = gpt()
    checkpoint_blocks(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.blocks.parameters():
            parameter.zero_()
        model.eval()
        twin.eval()
        assert not torch.equal(model(TOKENS), twin(TOKENS))
    assert twin.blocks[0].forward.block is twin.blocks[0]
    assert model.state_dict().keys() == gpt().state_dict().keys()


def test_what_was_there_before_is_there_after():
    model = gpt()
    model.blocks[1].forward = model.blocks[0].forward
    checkpoint_blocks(model).remove()
    assert model.blocks[1].forward == model.blocks[0].forward
    assert "forward" not in vars(model.blocks[0])


def test_a_compiled_model_is_recomputed_too():
    plain, other = net(), net()
    checkpoint_blocks(other)
    compiled = torch.compile(other, backend="aot_eager")
    assert equal(gradients(plain, IMAGES), gradients(compiled, IMAGES))
    assert equal(plain.buffers(), other.buffers())


def test_a_compiled_model_must_have_its_blocks_checkpointed_before():
    traced = []

    def look(graph, inputs):
        traced.append("tag_activation_checkpoint" in str(graph.graph))
        return graph.forward

    wrong = gpt()
    for block in wrong.blocks:
        compiled = torch.compile(block.forward, backend=look)
        block.forward = compiled  # as a compiler does that takes the forward which it finds
    checkpointed = checkpoint_blocks(wrong)
    gradients(wrong, TOKENS)
    assert traced
    assert not any(traced)
    checkpointed.remove()
    traced.clear()
    torch._dynamo.reset()
    right = gpt()
    checkpoint_blocks(right)
    gradients(torch.compile(right, backend=look), TOKENS)
    assert any(traced)


def test_a_cache_for_generation_is_not_written_twice():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=16)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(transformers.GPT2LMHeadModel(config))
    assert checkpoint_blocks(models[1]).names == ["transformer.h.0", "transformer.h.1"]
    for model in models:
        torch.manual_seed(1)
        model(input_ids=TOKENS, labels=TOKENS, use_cache=True).loss.backward()
    assert equal((p.grad for p in models[0].parameters()), (p.grad for p in models[1].parameters()))


# Which blocks ---------------------------------------------------------------------------------------------


def test_a_model_without_repeated_blocks_is_told_what_it_has():
    mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    with pytest.raises(CannotAct, match=r"no repeated blocks; it has 0 \(Linear\), 1 \(ReLU\).*blocks: \["):
        checkpoint_blocks(mlp)
    assert checkpoint_blocks(mlp, blocks=["Linear"]).names == ["0", "2"]


def test_blocks_by_name_pattern_and_class():
    assert checkpoint_blocks(gpt(), blocks=["blocks.[01]"]).names == ["blocks.0", "blocks.1"]
    assert checkpoint_blocks(gpt(), blocks=["GptBlock"]).names == [f"blocks.{n}" for n in range(4)]
    assert checkpoint_blocks(gpt(), blocks=["blocks.1.attention", "blocks.1"]).names == ["blocks.1"]
    with pytest.raises(BadInput, match='"GptBlok"; did you mean GptBlock'):
        checkpoint_blocks(gpt(), blocks=["GptBlok"])


# What blocks cost -----------------------------------------------------------------------------------------


def test_the_cost_of_a_block_is_what_checkpointing_it_frees():
    model = gpt()
    names = list(repeated_blocks(model))
    costs = block_costs(model, lambda: model(TOKENS), names)
    assert all(cost.seconds > 0 for cost in costs.values())
    before = saved_bytes(model, TOKENS)
    checkpoint_blocks(model, blocks=names[:1])
    assert before - saved_bytes(model, TOKENS) == pytest.approx(costs[names[0]].bytes, rel=0.05)


def test_the_cheapest_blocks_are_recomputed():
    costs = {
        "a": BlockCost(100, 5.0),
        "b": BlockCost(100, 1.0),
        "c": BlockCost(300, 6.0),
        "d": BlockCost(50, 2.0),
    }
    assert blocks_to_checkpoint(costs, 0) == ["a", "b", "c", "d"]
    assert blocks_to_checkpoint(costs, 100) == ["b", "c", "d"]
    assert blocks_to_checkpoint(costs, 150) == ["b", "c"]
    assert blocks_to_checkpoint(costs, 450) == ["b"]
    assert blocks_to_checkpoint(costs, 1000) == []


# In the loop ----------------------------------------------------------------------------------------------


def batches(count=4, rows=4):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randint(0, 50, (rows, 16), generator=generator), torch.zeros(rows, 16).long())
        for _ in range(count)
    ]


def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def make_loop(*instructions, model=None, loader=None, **settings):
    return TrainingLoop(
        gpt() if model is None else model,
        batches() if loader is None else loader,
        loss,
        instructions=instructions,
        device="cpu",
        **settings,
    )


def weights_of(loop, **settings):
    return list(loop.fit(**settings).state_dict().values())


def test_a_training_ends_with_the_same_weights_and_no_trace_of_it():
    loop = make_loop(GradientCheckpointing(), micro_batch=3, epochs=2)
    trained = loop.fit()
    assert equal(trained.state_dict().values(), weights_of(make_loop(micro_batch=3, epochs=2)))
    for model in (trained, loop.model):
        assert all("forward" not in vars(module) for module in model.modules())
    assert loop.reported["gradient_checkpointing"]["checkpointed_blocks"] == {"before": 0, "after": 4}


def test_with_modules_kept_in_float32_under_mixed_precision():
    amp = AmpOptimizer(dtype="bfloat16", keep_fp32=("*.feed_norm", "blocks.2"))
    for order in ((amp, GradientCheckpointing()), (GradientCheckpointing(), amp)):
        assert equal(weights_of(make_loop(*order)), weights_of(make_loop(amp)))


def test_a_surgery_gets_its_new_blocks_checkpointed():
    loop = make_loop(GradientCheckpointing())
    loop._label = "surgeon"
    operate = loop.surgery(lambda model: model.blocks.extend([copy.deepcopy(model.blocks[0])]) and None)
    loop.on("batch_start", lambda batch: operate() if loop.step == 1 else None)
    seen = []
    loop.on("batch_start", lambda batch: seen.append(sum("forward" in vars(b) for b in loop.model.blocks)))
    trained = loop.fit()
    assert seen == [4, 5, 5, 5]
    assert all("forward" not in vars(block) for block in trained.blocks)


def test_a_model_without_blocks_can_be_skipped_by_the_plan():
    with pytest.raises(CannotAct):
        make_loop(GradientCheckpointing(), model=nn.Linear(4, 4))


# The budget -----------------------------------------------------------------------------------------------


class Wide(nn.Module):
    """A block that keeps 12 MB a row of four."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 4), nn.Linear(4, 16)

    def forward(self, x):
        y = self.up(x)
        wide = y.unsqueeze(-1).expand(*y.shape, 12_000)
        return x + self.down(wide.sigmoid().exp().mean(-1))


def wide_loop(budget, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 16), *(Wide() for _ in range(4)), nn.Linear(16, 50))
    return make_loop(GradientCheckpointing(budget=budget), model=model, **settings)


def check_a_large_budget_lets_every_block_go():
    loop = wide_loop(spoken_bytes(memory_in_use(CPU) + 2**32))
    loop.fit()
    assert loop.reported["gradient_checkpointing"]["checkpointed_blocks"]["after"] == 0
    costs = loop.states["gradient_checkpointing"].costs
    assert [cost.bytes for cost in costs.values()] == pytest.approx([25e6] * 4, rel=0.1)


def test_memory_as_it_is():
    """The functions called check_* read this process's memory, so they get a process in which nothing was before."""
    options = ["-o", "python_functions=check_*", "-p", "no:cacheprovider"]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *options, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout


def least_budget():
    with pytest.raises(BadInput, match=r"below the \d+MiB that.*every block.*write budget: ") as caught:
        wide_loop("64MiB").fit()
    return parse_bytes(str(caught.value).split("write budget: ")[1].split(",")[0])


def check_a_budget_below_the_least_says_the_least_and_one_above_it_lets_some_go():
    least = least_budget()
    gc.collect()  # what failed must not count in the second training
    loop = wide_loop(spoken_bytes(least + 65e6))
    loop.fit()
    assert loop.reported["gradient_checkpointing"]["checkpointed_blocks"]["after"] in (1, 2, 3)


def test_measuring_and_letting_blocks_go_change_nothing(tmp_path):
    budget = spoken_bytes(memory_in_use(CPU) + 2**30)

    def loop(folder=None):
        return make_loop(
            GradientCheckpointing(budget=budget),
            epochs=2,
            checkpoints=folder,
            checkpoint_every=1 if folder else None,
        )

    expected = weights_of(make_loop(epochs=2))
    assert equal(weights_of(loop()), expected)
    for stop_at in (1, 3):
        (tmp_path / str(stop_at)).mkdir()
        interrupt(loop(tmp_path / str(stop_at)), stop_at)
        resumed = loop(tmp_path / str(stop_at))
        assert equal(weights_of(resumed, resume=True), expected)
        assert resumed.states["gradient_checkpointing"].chosen == []


def test_bad_budgets_are_refused():
    with pytest.raises(BadInput, match="such as 2GiB"):
        GradientCheckpointing(budget="2 gigs")
    with pytest.raises(BadInput, match="leave every out"):
        GradientCheckpointing(budget="2GiB", every=2)
