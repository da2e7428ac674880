"""Every engine and precision of fulldeck, beside onnxruntime, openvino and torchao used by hand, in turns.

    python benchmarks/engines.py [--quick] [--only bert-base:1] [--rounds 15] [--time-when FILE]

BERT-base at length 128 and ResNet-50, batch 1 and 8, with random weights: latency and numerical parity only, no
metric. Each case runs in a fresh process and is written as soon as it is done, beside the cases that there are.
Building takes minutes, timing seconds: with --time-when, timing waits until FILE is there, and the machine idle.
All arms of a case have the same number of threads and take turns in random order. Goals: what `fulldeck compile`
would choose is at least 0.98x of the best of all arms, 4.5x eager fp32 on BERT-base, 5.5x on ResNet-50 (batch 1).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import RESULTS, describe, write_result
from rounds import interleaved, median, ratio
from torch import Tensor, nn

CASES = ("bert-base:1", "bert-base:8", "resnet-50:1", "resnet-50:8")
GOALS = {"chosen_of_best": 0.98, "bert-base:1": 4.5, "resnet-50:1": 5.5}
CALIBRATION, JUDGED = 64, 32
FILE = RESULTS / "engines.json"
STRAY = 0.2
"""Largest difference that is allowed, as a share of the largest output of the fp32 model."""
PATIENCE = 3.0
"""Times the eager fp32 module from which an arm is listed with one call and not raced."""


class Logits(nn.Module):
    """A Hugging Face classifier with one tensor as its output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        logits: Tensor = self.model(*inputs, **named).logits
        return logits


class BertLogits(Logits):
    """The exporter wants the names of inputs."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:  # type: ignore[override]
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


class ResNetLogits(Logits):
    """Likewise."""

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        logits: Tensor = self.model(input).logits
        return logits


def model_of(name: str, quick: bool) -> tuple[nn.Module, dict[str, Any]]:
    """The module with random weights, and CALIBRATION rows of its inputs."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    if name == "bert-base":
        from transformers import BertConfig, BertForSequenceClassification

        sizes = {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
        }
        length = 16 if quick else 128
        model = BertForSequenceClassification(BertConfig(num_labels=8, **(sizes if quick else {})))
        ids = random.integers(1, 30_000, (CALIBRATION, length), dtype=np.int64)
        return BertLogits(model).eval(), {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    from transformers import ResNetConfig, ResNetForImageClassification

    small = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]} if quick else {}
    side = 32 if quick else 224
    images = random.normal(size=(CALIBRATION, 3, side, side)).astype(np.float32)
    model = ResNetForImageClassification(ResNetConfig(num_labels=8, **small))
    return ResNetLogits(model).eval(), {"input": images}


def run_case(case: str, rounds: int, quick: bool, threads: int, ready: Path | None) -> dict[str, Any]:
    """One model at one batch; nothing is timed before the file `ready` is there."""
    from fulldeck.parity import parity

    name, _, size = case.partition(":")
    batch = int(size)
    torch.set_num_threads(threads)
    module, rows = model_of(name, quick)
    inputs = {key: np.ascontiguousarray(value[:batch]) for key, value in rows.items()}
    with torch.inference_mode():
        expected = module(**{key: torch.from_numpy(value) for key, value in inputs.items()}).numpy()
    failed: dict[str, str] = {}
    arms: dict[str, Callable[[], Any]] = {}
    built: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        choose_ours = fulldeck_arms(module, rows, batch, threads, Path(folder))
        for label, make in by_hand(module, rows, inputs, threads, Path(folder)):
            tell(f"by hand {label}")
            started = time.perf_counter()
            try:
                arms[f"by hand {label}"] = make()
                arms[f"by hand {label}"]()  # torch.compile compiles in the first call
            except Exception as error:  # a peer that fails here is a line in the table, not the end
                arms.pop(f"by hand {label}", None)
                failed[f"by hand {label}"] = f"{type(error).__name__}: {str(error)[:200]}"
            built[f"by hand {label}"] = round(time.perf_counter() - started, 1)
        tell("built")
        while ready is not None and not ready.is_file():
            time.sleep(1)
        load = describe()["load"]
        ours, chosen, table = choose_ours()
        arms = {
            f"fulldeck {label}": (lambda e=engine: one(e.run(inputs))) for label, engine in ours.items()
        } | arms
        return {
            "load": load,
            "case": case,
            "weights": "random",
            "threads": threads,
            "build_s": built,
            "failed": failed,
            "fulldeck": table,
            **race(arms, chosen, expected, rounds, parity),
        }


def race(
    arms: Mapping[str, Callable[[], Any]],
    chosen: str,
    expected: Any,
    rounds: int,
    parity: Callable[[Any, Any], Mapping[str, float]],
) -> dict[str, Any]:
    """Parity of all arms, then turns of those that are not hopeless."""
    eager = "by hand torch eager fp32"
    compared, first = {}, {}
    for name, arm in arms.items():
        compared[name] = dict(parity(expected, np.asarray(arm())))
        first[name] = min(timed(arm) for _ in range(4))  # of which the first warms up
    racing = {name: arm for name, arm in arms.items() if first[name] <= PATIENCE * first[eager]}
    times = interleaved({name: (lambda a=arm: timed(a)) for name, arm in racing.items()}, rounds)
    allowed = STRAY * float(np.abs(expected).max())
    right = [name for name in times if compared[name]["difference"] <= allowed]
    best = min(right, key=lambda name: median(times[name])["median"])
    mine = f"fulldeck {chosen}"
    return {
        "latency_ms": {
            name: median([1000 * t for t in values]) | compared[name] for name, values in times.items()
        },
        "too_slow_ms": {name: round(1000 * first[name], 1) for name in arms if name not in racing},
        "too_far_off": sorted(set(times) - set(right)),
        "chosen": mine,
        "best": best,
        "chosen_of_best": ratio(times[best], times[mine]),
        "faster_than_eager_fp32": ratio(times[eager], times[mine]),
    }


def fulldeck_arms(
    module: nn.Module, rows: dict[str, Any], batch: int, threads: int, folder: Path
) -> Callable[[], tuple[dict[str, Any], str, list[dict[str, Any]]]]:
    """What gives the engines that `compile` keeps in the race, the label of the one that it takes, its whole table.

    Files are made here and now.
    """
    from fulldeck.candidate import Tolerance
    from fulldeck.compilation.arm import Judge, arms_of, build, some_outputs
    from fulldeck.compilation.compile import choose
    from fulldeck.compilation.forms import Form
    from fulldeck.data import Examples
    from fulldeck.engines import ENGINES
    from fulldeck.engines.pytorch import PyTorchEngine
    from fulldeck.engines.shapes import shapes_of
    from fulldeck.engines.source import Settings, Source
    from fulldeck.instructions.inference.onnx_export import export_onnx

    path = folder / "model.onnx"
    example = {key: torch.from_numpy(value[:20]) for key, value in rows.items()}
    export_onnx(
        module, example if len(example) > 1 else next(iter(example.values())), path, max_difference=1e-3
    )
    forms = [Form("fp32", "", path), *int8_files(path, rows, folder)]
    source = Source(rows, shapes_of(rows, [f"1:{batch}:64"]), {"fp32": module}, calibration=rows)
    judged = {key: value[:JUDGED] for key, value in rows.items()}
    reference = some_outputs(PyTorchEngine(module), judged, JUDGED, 8)
    tolerance = Tolerance(metric_drop=None, difference=STRAY * float(np.abs(reference).max()))
    judge = Judge(judged, Examples(judged, np.zeros(JUDGED, np.int64)), reference, {}, tolerance, 8)
    arms = [arm for name in ENGINES for arm in arms_of(name, ("fp32", "bf16", "int8"), source, forms)]
    for arm in arms:
        if arm.reason is None:
            tell(f"{arm.label}: building")
            build(arm, folder / "compiled", Settings(), threads)  # what it leaves in the folder is used again
            arm.loaded = None

    def choose_ours() -> tuple[dict[str, Any], str, list[dict[str, Any]]]:
        chosen = choose(arms, judge, folder / "compiled", Settings(), threads, lambda text: None)
        return (
            {arm.label: arm.loaded for arm in arms if arm.loaded is not None},
            chosen.label,
            [arm.to_json() for arm in arms],
        )

    return choose_ours


def int8_files(path: Path, rows: dict[str, Any], folder: Path) -> list[Any]:
    """What post_training_quantization makes of the file in each of its ways."""
    from fulldeck.compilation.forms import Form
    from fulldeck.instructions.inference.post_training_quantization import (
        quantize_onnx,
        quantize_onnx_by_nncf,
    )

    transformer = "input_ids" in rows
    made = []
    for how, make in (
        ("static", lambda out: quantize_onnx(path, out, rows)),
        ("dynamic", lambda out: quantize_onnx(path, out, mode="dynamic")),
        ("nncf", lambda out: quantize_onnx_by_nncf(path, out, rows, transformer=transformer)),
    ):
        tell(f"int8 {how}")
        try:
            made.append(Form("int8", how, make(folder / f"model.{how}.int8.onnx")))
        except Exception as error:  # one form fewer to choose from, and it is said
            tell(f"int8 {how}: {error}")
    return made


def by_hand(
    module: nn.Module, rows: dict[str, Any], inputs: dict[str, Any], threads: int, folder: Path
) -> Iterator[tuple[str, Callable[[], Callable[[], Any]]]]:
    """The libraries as their own documentation shows them, at the one batch that is measured."""
    tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
    file = str(folder / "model.onnx")

    def torch_arm(model: Any) -> Callable[[], Any]:
        def call() -> Any:
            with torch.inference_mode():
                return model(**tensors).float().numpy()

        return call

    def bf16() -> nn.Module:
        import copy

        low = copy.deepcopy(module).to(torch.bfloat16)
        hook = lambda _, args, named: (  # noqa: E731
            args,
            {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in named.items()},
        )
        low.register_forward_pre_hook(hook, with_kwargs=True)
        return low

    def compiled(model: Any) -> Callable[[], Any]:
        torch._inductor.config.freezing = True
        return torch_arm(torch.compile(model))

    def torchao_int8() -> Callable[[], Any]:
        import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        with torch.no_grad():
            prepared = prepare_pt2e(torch.export.export(module, (), kwargs=tensors).module(), quantizer)
            for start in range(0, CALIBRATION, len(next(iter(inputs.values())))):
                part = {k: torch.from_numpy(v[start : start + len(inputs[k])]) for k, v in rows.items()}
                prepared(**part)
            return compiled(convert_pt2e(prepared))

    def ort(path: str) -> Callable[[], Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # In turns with others, threads that spin would slow whoever comes next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, inputs)[0]

    def openvino(path: str, hint: str | None) -> Callable[[], Any]:
        import openvino as ov

        core = ov.Core()
        model = core.read_model(path)
        model.reshape({key: list(value.shape) for key, value in inputs.items()})
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        if hint:
            settings["INFERENCE_PRECISION_HINT"] = hint
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        return lambda: np.array(request.infer(inputs, share_inputs=True)[0])

    yield "torch eager fp32", lambda: torch_arm(module)
    yield "torch eager bf16", lambda: torch_arm(bf16())
    yield "torch.compile fp32", lambda: compiled(module)
    yield "torch.compile bf16", lambda: compiled(bf16())
    yield "torchao PT2E int8, torch.compile", torchao_int8
    yield "onnxruntime fp32", lambda: ort(file)
    yield "openvino f32", lambda: openvino(file, "f32")
    yield "openvino bf16", lambda: openvino(file, "bf16")
    for quantised in sorted(folder.glob("model.*.int8.onnx")):
        how = quantised.name.split(".")[1]
        yield f"onnxruntime int8 {how}", lambda path=str(quantised): ort(path)
        yield f"openvino int8 {how}", lambda path=str(quantised): openvino(path, None)


def one(outputs: Mapping[str, Any]) -> Any:
    return next(iter(outputs.values()))


def timed(arm: Callable[[], Any]) -> float:
    """Seconds of a call."""
    time.sleep(0.001)
    start = time.perf_counter()
    arm()
    return time.perf_counter() - start


def tell(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny models, few rounds; nothing is written")
    parser.add_argument("--only", choices=CASES, help="one case")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=0, help="0: the cores of this machine")
    parser.add_argument("--time-when", type=Path, help="a file whose presence lets the timing begin")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    from fulldeck.device import cpu_threads

    threads = options.threads or cpu_threads()
    rounds = 7 if options.quick else options.rounds
    if options.case:
        print(json.dumps(run_case(options.case, rounds, options.quick, threads, options.time_when)))
        return
    raw: dict[str, Any] = json.loads(FILE.read_bytes())["raw"] if FILE.is_file() else {}
    for case in (options.only,) if options.only else CASES:
        print(f"{case} ...", file=sys.stderr, flush=True)
        command = [
            sys.executable,
            __file__,
            "--case",
            case,
            "--rounds",
            str(rounds),
            "--threads",
            str(threads),
        ]
        done = subprocess.run(
            [
                *command,
                *(["--quick"] if options.quick else []),
                *(["--time-when", str(options.time_when)] if options.time_when else []),
            ],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        lines = done.stdout.strip().splitlines()
        found = (
            json.loads(lines[-1])
            if done.returncode == 0 and lines
            else {"case": case, "failed": done.returncode}
        )
        raw[case] = found
        show(found)
        if not options.quick:
            write_result("engines", result_of(raw, rounds))  # after each case: what is measured is kept


def result_of(raw: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """All cases that there are: what was chosen, and every arm."""
    timed = {case: found for case, found in raw.items() if "chosen" in found}
    return {
        "machine": describe(),
        "goals": GOALS,
        "rounds": rounds,
        "chosen": {
            case: {name: found[name] for name in ("chosen_of_best", "faster_than_eager_fp32")}
            for case, found in timed.items()
        },
        "arms": {
            case: {
                arm: {"latency_ms": one, "cosine": one["cosine"], "largest_difference": one["difference"]}
                for arm, one in found["latency_ms"].items()
            }
            for case, found in timed.items()
        },
        "raw": raw,
    }


def show(found: Mapping[str, Any]) -> None:
    """One case as a table."""
    print(f"\n{found['case']}")
    for name, figure in sorted(found.get("latency_ms", {}).items(), key=lambda item: item[1]["median"]):
        low, high = figure["interval"]
        print(
            f"  {name:<48}{figure['median']:9.2f} ms ({low:.2f} to {high:.2f})  cosine {figure['cosine']:.5f}  "
            f"largest difference {figure['difference']:.2g}"
        )
    for name, milliseconds in found.get("too_slow_ms", {}).items():
        print(f"  {name:<48}{milliseconds:9.2f} ms (one call; not raced)")
    if "chosen" in found:
        print(
            f"  chosen: {found['chosen']}; best: {found['best']}; "
            f"{found['chosen_of_best']['median']:.3f}x of the best, "
            f"{found['faster_than_eager_fp32']['median']:.2f}x eager fp32"
        )
    for name, reason in found["failed"].items() if isinstance(found.get("failed"), dict) else ():
        print(f"  {name}: {reason}")


if __name__ == "__main__":
    main()
