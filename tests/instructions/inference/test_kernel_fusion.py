import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from fulldeck.errors import BadInput, CannotAct
from fulldeck.instructions.inference import kernel_fusion
from fulldeck.instructions.inference.kernel_fusion import KernelFusion, fold_batch_norm, race, regions
from fulldeck.instructions.inference.kernel_fusion.race import CHAINS, FOLDED, PLAIN, WHOLE
from fulldeck.instructions.inference.kernel_fusion.regions import fuse_chains
from fulldeck.instructions.inference.kernel_fusion.triton_chains import in_triton
from fulldeck.instructions.inference.onnx_export import OnnxExport
from fulldeck.networks import describe
from fulldeck.networks.mobile_net import MobileNet
from fulldeck.networks.residual_net import ResidualNet


def settled(model: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """With statistics and scales that are not those of a new batch-norm."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        for _ in range(3):
            model.train()(inputs)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


# Folding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ResidualNet, MobileNet])
def test_folding_takes_every_batch_norm_and_keeps_the_outputs(kind):
    images = torch.rand(4, 1, 8, 8)
    model = settled(kind(1, 3, widths=(4, 8)), images)
    expected, before = model(images), norms(model)
    assert len(fold_batch_norm(model, images)) == before
    assert norms(model) == 0
    assert torch.allclose(model(images), expected, atol=1e-4)


def test_linear_layers_and_transposed_convolutions_fold_too():
    inputs = torch.randn(8, 6)
    model = settled(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU()), inputs)
    expected = model(inputs)
    assert fold_batch_norm(model, inputs) == ["1"]
    assert torch.allclose(model(inputs), expected, atol=1e-5)
    maps = torch.randn(4, 3, 5, 5)
    model = settled(nn.Sequential(nn.ConvTranspose2d(3, 2, 3, bias=False), nn.BatchNorm2d(2)), maps)
    expected = model(maps)
    assert fold_batch_norm(model, maps) == ["1"]
    assert torch.allclose(model(maps), expected, atol=1e-5)


class ReadTwice(nn.Module):
    """The first convolution's output is read past its batch-norm as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.conv2, self.norm2 = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x):
        y = self.conv(x)
        return self.norm2(self.conv2(self.norm(y) + y))


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.conv(self.norm(self.conv(x)))


def test_what_somebody_else_reads_too_keeps_its_batch_norm():
    images = torch.rand(4, 1, 6, 6)
    model = settled(ReadTwice(), images)
    expected = model(images)
    assert fold_batch_norm(model, images) == ["norm2"]
    assert torch.allclose(model(images), expected, atol=1e-5)
    maps = torch.rand(4, 2, 6, 6)
    model = settled(CalledTwice(), maps)
    assert fold_batch_norm(model, maps) == []


def test_a_model_without_batch_norm_stays_as_it_is():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    before = copy.deepcopy(model.state_dict())
    assert fold_batch_norm(model, torch.rand(2, 3)) == []
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# Chains -----------------------------------------------------------------------------------------------------


def pretend(monkeypatch, ratio: float) -> None:
    """Fused chains take `ratio` of the time, whatever this machine is at."""
    monkeypatch.setattr(
        regions, "in_turns", lambda ways, rounds=9: {n: ratio if n == "fused" else 1.0 for n in ways}
    )


def residual() -> tuple[nn.Module, torch.Tensor]:
    images = torch.rand(4, 1, 8, 8)
    model = settled(ResidualNet(1, 3, widths=(4, 8)), images)
    fold_batch_norm(model, images)
    return model, images


def test_chains_that_are_faster_fused_are_fused_and_compute_the_same(monkeypatch):
    model, images = residual()
    pretend(monkeypatch, 0.5)
    parted, chains = fuse_chains(
        model, [images[:1], images], {"eager": lambda part: lambda *given: part(*given)}
    )
    assert parted is not None
    assert {chain.kept for chain in chains} == {"eager"}
    assert torch.allclose(parted(images), model(images), atol=1e-5)
    assert torch.allclose(copy.deepcopy(parted)(images), model(images), atol=1e-5)
    exported = torch.export.export(parted, (images,)).module()
    assert torch.allclose(exported(images), model(images), atol=1e-5)


def test_chains_that_are_slower_fused_are_left_as_they_are(monkeypatch):
    model, images = residual()
    pretend(monkeypatch, 1.2)
    parted, chains = fuse_chains(model, [images], {"eager": lambda part: part})
    assert parted is None
    assert {(chain.kept, chain.ratios["eager"]) for chain in chains} == {(None, 1.2)}


def test_a_way_that_fails_or_computes_something_else_is_left_out(monkeypatch):
    model, images = residual()
    pretend(monkeypatch, 0.5)

    def fails(part):
        raise RuntimeError("no such kernel")

    parted, chains = fuse_chains(
        model, [images], {"fails": fails, "wrong": lambda part: lambda *g: part(*g) + 1}
    )
    assert parted is None
    assert not any(chain.ratios for chain in chains)


def test_a_model_that_cannot_be_traced_has_no_chains():
    class Branching(nn.Module):
        def forward(self, x):
            return x.relu() if x.sum() > 0 else x

    assert fuse_chains(Branching(), [torch.rand(2, 2)], {"eager": lambda part: part}) == (None, [])


def test_chains_become_kernels_of_triton(monkeypatch):
    pytest.importorskip("triton", reason='pip install "fulldeck[triton]"')
    model, images = residual()
    pretend(monkeypatch, 0.5)
    parted, chains = fuse_chains(model, [images], {"Triton": in_triton((128, 4), 49_152)})
    assert parted is not None
    assert {chain.kept for chain in chains if "sub" not in chain.operations} == {"Triton"}
    assert any(chain.operations[-2:] == ("add", "blocks.0.relu2") for chain in chains)
    assert torch.allclose(parted(images), model(images), atol=1e-4)


# In the pipeline ---------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Neither compilation nor race: folding takes half of the time, compiling the whole twice."""
    from fulldeck.engines.choice import Timed
    from fulldeck.evidence.statistics import Interval

    times = {PLAIN: 1.0, FOLDED: 0.5, WHOLE: 2.0, CHAINS: 1.5}

    def timed(engines, inputs, **settings):
        def one(name):
            return Interval(times[name], times[name], times[name])

        return {name: Timed(one(name), one(name), 15) for name in sorted(engines, key=times.__getitem__)}

    monkeypatch.setattr(race, "fastest", timed)
    monkeypatch.setattr(race, "fuse_chains", lambda model, batches, ways: (None, []))
    monkeypatch.setattr(
        race, "_whole", lambda module, candidate: race.Form(race.PyTorchEngine(module), candidate)
    )
    return times


def test_the_fastest_form_is_taken_and_the_others_are_named(trained, quick):
    after = KernelFusion().optimise(trained)
    assert norms(after.module) == 0
    assert norms(trained.module) > 0
    assert describe(after.module) is None  # its weights are not those of the network that it was
    assert after.notes[0] == f"kernel_fusion: {FOLDED}"
    assert any(WHOLE in note and "2.00x of the time at 1 rows" in note for note in after.notes)


def test_where_nothing_is_faster_the_model_stays_and_the_run_says_so(trained, quick):
    quick[FOLDED] = 1.1
    after = KernelFusion().optimise(trained)
    assert after.module is trained.module
    assert "left the model as it is: nothing was faster" in after.notes[0]


def test_a_form_that_is_slower_at_one_batch_is_not_taken(trained, quick, monkeypatch):
    fast = race.fastest

    def slower_at_one(engines, inputs, **settings):
        quick[FOLDED] = 1.1 if len(inputs["input"]) == 1 else 0.1
        return fast(engines, inputs, **settings)

    monkeypatch.setattr(race, "fastest", slower_at_one)
    assert KernelFusion(rows=(1, 32)).optimise(trained).module is trained.module


def test_what_cannot_be_compiled_is_left_out_with_the_reason(trained, quick, monkeypatch):
    def no_compiler(module, candidate):
        raise CannotAct("it compiles C++, and there is no compiler: install a C++ compiler (g++)")

    monkeypatch.setattr(race, "_whole", no_compiler)
    notes = KernelFusion().optimise(trained).notes
    assert any("compiled whole: it compiles C++, and there is no compiler" in note for note in notes)


@pytest.mark.slow
def test_native_code_is_an_artifact_that_answers_as_the_module(trained, tmp_path):
    form = race._whole(copy.deepcopy(trained.module), replace(trained, folder=tmp_path))
    assert form.candidate.artifact.kind == "aoti"
    inputs = trained.example(5)
    expected = torch.from_numpy(trained.run(inputs))
    assert torch.allclose(torch.from_numpy(form.candidate.run(inputs)), expected, atol=1e-4)


def test_after_an_export_there_is_nothing_to_fuse(exported):
    with pytest.raises(CannotAct, match=r"what is served is model\.onnx already"):
        KernelFusion().optimise(exported)


def test_a_folded_model_is_exported_and_says_the_same(trained, tmp_path, quick, accuracy):
    folded = KernelFusion().optimise(replace(trained, folder=tmp_path))
    exported = OnnxExport().optimise(folded)
    assert accuracy(exported) == accuracy(trained)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (
            {"cuda_kernel_launch_bounds": (100, 1)},
            r"kernel_fusion.cuda_kernel_launch_bounds: a block has 32, 64",
        ),
        ({"shared_memory_size": 100}, r"kernel_fusion.shared_memory_size: 100 bytes hold no tile"),
        ({"rows": (0,)}, r"kernel_fusion.rows must be at least 1 each"),
    ],
)
def test_launches_that_no_gpu_has_are_refused(parameters, said):
    with pytest.raises(BadInput, match=said):
        KernelFusion(**parameters)


def test_the_function_is_exported():
    assert kernel_fusion.__all__ == ["KernelFusion", "fold_batch_norm", "launch_of"]
