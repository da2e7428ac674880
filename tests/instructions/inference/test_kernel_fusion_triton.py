"""Triton's kernels, on CPU tensors through its interpreter."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from fulldeck.errors import BadInput
from fulldeck.instructions.inference.kernel_fusion.launch import launch_of

pytest.importorskip("triton", reason='triton is not installed: pip install "fulldeck[triton]"')


@pytest.fixture(scope="module")
def kernels():
    from fulldeck.instructions.inference.kernel_fusion import triton_kernels

    return triton_kernels


ALONE = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": nn.functional.hardswish,
    "hardsigmoid": nn.functional.hardsigmoid,
    "exp": torch.exp,
    "neg": torch.neg,
}


def test_every_step_computes_what_torch_does(kernels):
    torch.manual_seed(0)
    x = torch.randn(3, 37) * 3
    for step, function in ALONE.items():
        assert torch.allclose(kernels.pointwise_chain(x, [step]), function(x), atol=1e-5), step


def test_the_chains_of_the_workloads(kernels):
    torch.manual_seed(0)
    x, residual = torch.randn(2, 5, 4, 6), torch.randn(2, 5, 4, 6)
    bias, gate = torch.randn(5), torch.randn(2, 5, 1, 1)
    chain = kernels.pointwise_chain
    # A residual block: bias of the folded batch-norm, shortcut, ReLU.
    expected = torch.relu(x + bias.view(1, 5, 1, 1) + residual)
    assert torch.allclose(chain(x, ["add_first", "add_second", "relu"], bias, residual), expected, atol=1e-6)
    # Squeeze-and-excitation.
    assert torch.allclose(
        chain(x, ["mul_first"], nn.functional.hardsigmoid(gate)), x * nn.functional.hardsigmoid(gate)
    )
    # A feed-forward net: bias and GELU on N x T x C.
    tokens, columns = torch.randn(2, 3, 8), torch.randn(8)
    expected = nn.functional.gelu(tokens + columns)
    assert torch.allclose(chain(tokens, ["add_first", "gelu"], columns), expected, atol=1e-6)


def test_add_and_layer_norm(kernels):
    torch.manual_seed(0)
    x, residual = torch.randn(3, 4, 33), torch.randn(3, 4, 33)
    norm = nn.LayerNorm(33)
    nn.init.normal_(norm.weight)
    with torch.no_grad():
        total, out = kernels.add_layer_norm(x, residual, norm.weight, norm.bias, norm.eps)
        assert torch.equal(total, x + residual)
        assert torch.allclose(out, norm(x + residual), atol=1e-5)


def test_launch_bounds_and_shared_memory_change_the_launch_and_not_the_result(kernels):
    x = torch.linspace(-4, 4, 1000)
    small = launch_of((64, 8), 2048, operands=2)
    assert (small.num_warps, small.maxnreg, small.num_stages) == (2, 128, 1)
    assert small.tile == 256
    assert torch.equal(
        kernels.pointwise_chain(x, ["silu"], launch=small), kernels.pointwise_chain(x, ["silu"])
    )


def test_what_no_kernel_takes_is_refused(kernels):
    x = torch.zeros(2, 3)
    with pytest.raises(BadInput, match='a chain has no step "cos"; there is relu'):
        kernels.pointwise_chain(x, ["cos"])
    with pytest.raises(BadInput, match=r"a value for each channel, .* got \[5\]"):
        kernels.pointwise_chain(x, ["add_first"], torch.zeros(5))
    with pytest.raises(BadInput, match="two tensors of one shape"):
        kernels.add_layer_norm(x, torch.zeros(3, 3), torch.ones(3), torch.zeros(3))


@pytest.mark.parametrize(
    ("bounds", "memory", "said"),
    [
        ((100, 1), None, "a block has 32, 64, 128, 256, 512 or 1024 threads, got 100"),
        ((1024, 4), None, "4 blocks of 1024 threads do not fit on a multiprocessor"),
        (None, 100, "100 bytes hold no tile of 64 elements of 2 tensors; give at least 512"),
    ],
)
def test_bounds_that_no_gpu_has_are_refused(bounds, memory, said):
    with pytest.raises(BadInput, match=said):
        launch_of(bounds, memory)


def test_launch_bounds_become_warps_and_registers():
    one = launch_of((256, 2), 98_304)
    assert one.options() == {"num_warps": 8, "num_stages": 3, "maxnreg": 128}
    assert launch_of((128, 1), None).maxnreg == 255
    assert launch_of(None, None).maxnreg is None


def test_kernels_compile_for_a_gpu_that_is_not_here():
    """The interpreter takes Python that the compiler does not."""
    program = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fulldeck.instructions.inference.kernel_fusion import triton_kernels as kernels

def ptx(kernel, pointers, numbers, constants):
    signature = dict.fromkeys(pointers.split(), "*fp32") | numbers | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constants)
    return compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]

whole = dict.fromkeys(("count", "inner", "channels"), "i32")
for step in range(1, 14):
    spread = {"spread_first": step % 4, "spread_second": 1}
    constants = spread | {"chain": step, "length": 1, "tile": 1024}
    assert "st.global" in ptx(kernels._chain, "x first second out", whole, constants), step
norm = ptx(kernels._add_layer_norm, "x residual weight bias total out", {"width": "i32", "eps": "fp32"}, {"tile": 1024})
assert "st.global" in norm
"""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
