"""What needs no GPU of the TensorRT engine: arguments, the command for another machine, what is said here."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fulldeck.engines import engine_module, tensorrt, why_not
from fulldeck.engines.shapes import shapes_of
from fulldeck.engines.source import Settings, Source
from fulldeck.errors import BadInput, CannotAct

EXAMPLE = {"ids": np.zeros((2, 12), np.int64), "mask": np.zeros((2, 12), np.int64)}
SHAPES = shapes_of(EXAMPLE, ["1:8:64"])


def source(*precisions: str) -> Source:
    return Source(EXAMPLE, SHAPES, onnx={one: Path(f"model.{one}.onnx") for one in precisions})


def test_the_command_of_version_10_has_flags_and_that_of_11_has_none() -> None:
    path, settings = Path("a b/model.onnx"), Settings(workspace=4096)
    ten = tensorrt.trtexec(path, "fp16", SHAPES, settings, 10)
    assert ten == (
        "trtexec '--onnx=a b/model.onnx' --saveEngine=model.plan --memPoolSize=workspace:4096 --fp16 "
        "--minShapes=ids:1x12,mask:1x12 --optShapes=ids:8x12,mask:8x12 --maxShapes=ids:64x12,mask:64x12"
    )
    assert tensorrt.trtexec(path, "fp16", SHAPES, settings, 11) == ten.replace(" --fp16", "")


def test_version_11_takes_types_from_the_file(tmp_path: Path) -> None:
    assert tensorrt.typed_file(source("fp32"), "fp16", tmp_path, 10).name == "model.fp32.onnx"
    assert tensorrt.typed_file(source("fp32", "fp16"), "fp16", tmp_path, 11).name == "model.fp16.onnx"
    for precision, version in (("fp16", 11), ("int8", 10)):
        with pytest.raises(CannotAct, match=f"there is no {precision} ONNX file of the model"):
            tensorrt.typed_file(source("fp32"), precision, tmp_path, version)


def test_the_version_of_a_release() -> None:
    assert tensorrt.major("10.16.1.11") == 10


@pytest.mark.skipif(why_not("tensorrt") is None, reason="TensorRT is here")
def test_where_it_is_not_it_says_how_to_get_it() -> None:
    reason = why_not("tensorrt")
    assert reason is not None
    assert "NVIDIA GPU" in reason
    if "is not installed" in reason:
        with pytest.raises(BadInput, match="engine tensorrt is not available: tensorrt is not installed"):
            engine_module("tensorrt")


class Recorder:
    """Stands for TensorRT's builder, which needs a GPU: keeps what it is told, builds nothing."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.told.append((name, *arguments))
            if name == "parse_from_file":
                return True
            return None if name == "build_serialized_network" else self

        return call


def fake(version: str) -> tuple[ModuleType, Recorder]:
    recorder = Recorder()
    module: Any = ModuleType("tensorrt")
    module.__version__ = version
    module.Logger = lambda level: None
    module.Logger.ERROR = 0
    module.Builder = lambda logger: recorder
    module.OnnxParser = lambda network, logger: recorder
    module.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    module.BuilderFlag = SimpleNamespace(FP16="fp16 flag")
    return module, recorder


@pytest.mark.parametrize(("version", "flagged"), [("10.9.0", True), ("11.0.0", False)])
def test_a_workspace_that_is_too_small_is_told_with_what_to_write(
    version: str, flagged: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module, recorder = fake(version)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(CannotAct, match="within a workspace of 16 MiB; give it more: --workspace 32"):
        tensorrt.convert(source("fp32", "fp16"), "fp16", tmp_path, Settings(workspace=16))
    told = recorder.told
    assert ("set_memory_pool_limit", "workspace", 16 << 20) in told
    assert (("set_flag", "fp16 flag") in told) is flagged
    assert ("set_shape", "ids", [1, 12], [8, 12], [64, 12]) in told
    assert not list(tmp_path.iterdir())
