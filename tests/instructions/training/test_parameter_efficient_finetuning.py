import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fulldeck.errors import BadInput, CannotAct, RunFailed
from fulldeck.instructions.training.amp_optimizer import AmpOptimizer
from fulldeck.instructions.training.parameter_efficient_finetuning import (
    ParameterEfficientFinetuning,
    add_adapters,
    find_head,
)
from fulldeck.instructions.training.weight_averaging import WeightAveraging
from fulldeck.networks.gpt import Gpt
from fulldeck.networks.text_transformer import TextTransformer
from fulldeck.training.loop import TrainingLoop
from tests.interruption import interrupt

INPUTS = torch.randn(96, 3, 6, 6, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS.mean((1, 2, 3)) > 0).long()
KINDS = ("lora", "dora", "ia3")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 32),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(32, 2),
    )


def training(*instructions, net=None, **settings):
    data = torch.utils.data.TensorDataset(INPUTS, TARGETS)
    settings = {"epochs": 3, "optimizer": lambda p: torch.optim.AdamW(p, lr=0.02), **settings}
    return TrainingLoop(
        network() if net is None else net,
        torch.utils.data.DataLoader(data, batch_size=16, shuffle=True),
        nn.functional.cross_entropy,
        instructions=instructions,
        device="cpu",
        **settings,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_only_adapters_and_head_are_trained_and_the_model_comes_back_as_it_was(kind):
    net = network()
    before = copy.deepcopy(net)
    loop = training(ParameterEfficientFinetuning(kind=kind, rank=2), net=net)
    frozen = loop.model[4].base_layer.weight.clone()
    loop.on("fit_end", lambda: seen.append(loop.model[4].base_layer.weight.clone()))
    seen = []
    fitted = loop.fit()
    assert torch.equal(seen[0], frozen)
    assert loop.history[-1]["loss"] < loop.history[0]["loss"]
    assert [type(one) for one in fitted.modules()] == [type(one) for one in before.modules()]
    assert fitted.state_dict().keys() == before.state_dict().keys()
    assert not torch.equal(fitted[4].weight, before[4].weight)
    assert not torch.equal(fitted[7].weight, before[7].weight)
    assert all(parameter.requires_grad for parameter in fitted.parameters())
    figures = loop.reported["parameter_efficient_finetuning"]
    assert 0 < figures["trainable_share"]["after"] < 0.2
    assert figures["merge_difference"]["after"] < 1e-5
    assert sum(len(o.param_groups[0]["params"]) for o in loop.optimizers) < 10


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertForSequenceClassification(BertConfig(vocab_size=50, max_position_embeddings=16, **sizes))


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("make", "heads"), [(bert, ("classifier",)), (gpt2, ())])
def test_models_of_transformers(kind, make, heads):
    torch.manual_seed(0)
    model = make()
    ids = torch.randint(0, 50, (4, 8))
    assert find_head(model) == heads
    adapters = add_adapters(model, kind, train_also=heads)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    for _ in range(2):
        model(input_ids=ids).logits.square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in trained)
    assert adapters.merge({"input_ids": ids}) < 1e-5
    assert not any("lora" in name or "ia3" in name for name, _ in model.named_modules())


def test_torchs_own_transformer_is_evaluated_with_its_adapters():
    # In evaluation its fast path reads the weights of the layers, past any adapter.
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    inputs = torch.randn(3, 5, 16)
    with torch.no_grad():
        before = model.eval()(inputs)
    adapters = add_adapters(model, "lora", rank=2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.ones_(parameter)
    with torch.no_grad():
        assert not torch.allclose(model.eval()(inputs), before)
    assert adapters.merge(inputs) < 1e-4
    assert all(layer.activation_relu_or_gelu for layer in model.layers)


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapters_alone_are_read_by_peft(kind, tmp_path):
    from peft import PeftModel

    loop = training(ParameterEfficientFinetuning(kind=kind, rank=2, save_adapters=True))
    fitted = loop.fit()
    assert loop.notes == ["the adapters alone are in the folder artifacts/adapters"]
    candidate = SimpleNamespace(carried=loop.carried, folder=tmp_path)
    assert ParameterEfficientFinetuning(kind=kind, save_adapters=True).optimise(candidate) is candidate
    files = {path.name for path in (tmp_path / "adapters").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    # Batch-norm's statistics go on in training, and are no adapters.
    base = network()
    base[1].load_state_dict(fitted[1].state_dict())
    again = PeftModel.from_pretrained(base, tmp_path / "adapters").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(INPUTS), fitted.eval()(INPUTS), rtol=1e-4, atol=1e-5)


def test_the_head_of_a_language_model_is_left_alone():
    assert find_head(Gpt(50, 8, width=16, layers=1, heads=2, tied=False)) == ()
    assert find_head(TextTransformer(50, 8, 3, width=16, layers=1, heads=2)) == ("head",)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_resume_is_bit_exact(kind, tmp_path):
    def built(folder):
        instruction = ParameterEfficientFinetuning(kind=kind, rank=2, dropout=0.1)
        return training(instruction, checkpoints=folder, checkpoint_every=4 if folder else None)

    expected = built(None).fit().state_dict()
    interrupt(built(tmp_path), 10)
    state = built(tmp_path).fit(resume=True).state_dict()
    assert all(torch.equal(expected[name], state[name]) for name in expected)


def hands_over_what_was_evaluated(*instructions):
    loop = training(*instructions)
    evaluated = []

    def evaluate():
        with loop.deployed() as model, torch.no_grad():
            evaluated.append(model(INPUTS))

    loop.on("fit_end", evaluate)
    fitted = loop.fit().eval()
    return torch.allclose(fitted(INPUTS), evaluated[0], atol=1e-4)


def test_an_average_must_be_in_place_before_the_merge():
    average, adapters = WeightAveraging(decay=0.9), ParameterEfficientFinetuning(rank=2)
    assert hands_over_what_was_evaluated(average, adapters)
    # The other way round it would go to adapters that are no longer in the model.
    assert not hands_over_what_was_evaluated(adapters, average)


def test_modules_kept_in_float32_keep_their_adapters_there_too():
    def share(*instructions):
        loop = training(*instructions, epochs=1)
        loop.fit()
        return loop.reported["amp_optimizer"]["low_precision_flops"]["after"]

    amp = AmpOptimizer(dtype="bfloat16", keep_fp32=("Linear", "Conv2d"))
    adapters = ParameterEfficientFinetuning(rank=2)
    assert share(adapters, amp) == 0
    assert share(amp, adapters) > 0


def test_targets_that_match_nothing_are_told_what_there_is():
    text = (
        r'targets: "\*.query" matches nothing; there is tokens, dropout, blocks.\*.attention_norm, .*, head$'
    )
    with pytest.raises(BadInput, match=text):
        add_adapters(TextTransformer(50, 8, 3, width=16, layers=2, heads=2), targets=["*.query"])
    with pytest.raises(BadInput, match=r'train_also: "7\.x" matches nothing'):
        training(ParameterEfficientFinetuning(train_also=("7.x",)))


def test_a_shared_weight_is_refused_and_left_out_by_itself():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.mix, self.head = (
                nn.Embedding(9, 4),
                nn.Linear(4, 4),
                nn.Linear(4, 9, bias=False),
            )
            self.head.weight = self.tokens.weight

    assert add_adapters(Tied()).layers == ("mix",)
    with pytest.raises(BadInput, match="head shares its weight with tokens; leave one out"):
        add_adapters(Tied(), targets=["head"])


def test_nothing_to_adapt():
    with pytest.raises(CannotAct, match="no linear or convolution layer"):
        training(ParameterEfficientFinetuning(), net=nn.Sequential(nn.Flatten(), nn.Linear(108, 2)))
    with pytest.raises(BadInput, match="peft cannot adapt this model: Target module LayerNorm"):
        add_adapters(TextTransformer(50, 8, 3, width=16, layers=1, heads=2), targets=["LayerNorm"])


def test_a_merge_that_changes_the_outputs_ends_the_run():
    class PastTheLayer(nn.Linear):
        def __init__(self):
            super().__init__(8, 8)
            self.inner = nn.Linear(8, 8)

        def forward(self, x):
            return self.inner(x) + x @ self.inner.weight

    model = nn.Sequential(PastTheLayer(), nn.Linear(8, 2))
    adapters = add_adapters(model, targets=["0.inner"], rank=2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.ones_(parameter)
    with pytest.raises(RunFailed, match=r"merging the adapters changed an output by .*leave that one out"):
        adapters.merge(torch.ones(2, 8))
