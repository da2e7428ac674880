"""Training on a GPU: mixed precision, memory, compilation, optimizers, and whether anything waits for the device.

    PYTHONPATH=src python benchmarks/gpu/training.py [--out training.json] [--seconds 480] [--parts ...]
    PYTHONPATH=src python benchmarks/gpu/training.py --device cpu --tiny

Random data and weights; a transformer of BERT-base's size (length 128) and ResNet-50 (224 x 224). Needs torch,
NumPy, pydantic, psutil and safetensors; Accelerate is an arm where it is installed, torchao for float8 and 8-bit
states. The result is JSON, written after every part; no part is begun after --seconds.

- precision (18): a step of the transformer in TF32, in bfloat16 and float16 by amp_optimizer and by Accelerate, in
  float8; its time, its peak memory, the share of low-precision FLOPs, the loss after equal steps.
- search (05): the largest batch of ResNet-50 within a limit that the allocator enforces, by `largest_batch` and
  by `accelerate.find_executable_batch_size`; the truth by bisection.
- halving (05): images/s within that limit, of a batch that does not fit: in the parts that
  dynamic_batch_scheduler foresees, and halved until they fit.
- blocks (23): memory and time of a step with blocks recomputed, beside `gradient_checkpointing_enable`'s
  way of doing it (torch's checkpoint around every block); gradients equal to those without.
- four_times (08 + 05 + 23): four times the batch in the memory of one, and the time a sample.
- compilation (21): a step as it is and compiled, and the steps after which compiling is won back.
- optimizers (19): bytes of state and time of a step.
- waiting (16, 17, 08, 18): a step with all of them, in which torch reports every wait for the device.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from inference import ResNet50
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from fulldeck.instructions.training.amp_optimizer import AmpOptimizer
from fulldeck.instructions.training.dynamic_batch_scheduler import DynamicBatchScheduler, largest_batch
from fulldeck.instructions.training.gradient_checkpointing import GradientCheckpointing, checkpoint_blocks
from fulldeck.instructions.training.gradient_stabilization import GradientStabilization
from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.instructions.training.optimizer_selection import make_optimizers, state_bytes
from fulldeck.instructions.training.train_step_compilation import TrainStepCompilation
from fulldeck.instructions.training.weight_averaging import WeightAveraging
from fulldeck.machine import recent_peak, reset_peak
from fulldeck.memory import give_back, is_out_of_memory, memory_in_use, spoken_bytes
from fulldeck.networks import build
from fulldeck.training.loop import TrainingLoop

GOALS = {
    "precision": "bfloat16 at least 1.6 times as fast as TF32, at most 0.65 of its memory",
    "search": "within 3 % of the largest batch in at most 3 probes, at least 5 times as fast as halving",
    "halving": "at least 1.2 times the images/s of halving",
    "blocks": "no more memory and time than a checkpoint around every block, equal gradients",
    "four_times": "at most 1.05 times the memory, at most 1.3 times the time a sample",
    "compilation": "a step never slower than uncompiled",
    "optimizers": "bytes of state: lion half of AdamW's, 8 bits a quarter",
    "waiting": "no wait for the device",
}
Arm = Callable[[], dict[str, Any]]


class Bench:
    """Sizes, and what every part measures with."""

    def __init__(self, device: torch.device, tiny: bool, rounds: int) -> None:
        self.device, self.tiny, self.rounds = device, tiny, rounds
        self.steps = 2 if tiny else 6

    # Models and data ---------------------------------------------------------------------------------

    def transformer(self, dropout: float = 0.0) -> nn.Module:
        """N x T ids to N x 8 logits."""
        torch.manual_seed(0)
        sizes = (
            {"width": 32, "layers": 3, "heads": 2} if self.tiny else {"width": 768, "layers": 12, "heads": 12}
        )
        arguments = {"vocabulary": 30_522, "length": self.length, "outputs": 8, "dropout": dropout, **sizes}
        return build({"network": "text_transformer", "arguments": arguments}).to(self.device)

    @property
    def length(self) -> int:
        return 16 if self.tiny else 128

    def texts(self, rows: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1, 30_000, (rows, self.length), generator=generator)
        return ids.to(self.device), (ids.sum(1) % 8).to(self.device)

    def resnet(self) -> nn.Module:
        torch.manual_seed(0)
        return (ResNet50((1, 1), 8, 10) if self.tiny else ResNet50()).to(self.device)

    def images(self, rows: int) -> tuple[Tensor, Tensor]:
        side = 32 if self.tiny else 224
        return torch.randn(rows, 3, side, side, device=self.device), torch.arange(
            rows, device=self.device
        ) % 10

    # Measuring ---------------------------------------------------------------------------------------

    def wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def clean(self) -> None:
        gc.collect()
        give_back(self.device)

    def seconds(self, step: Callable[[], object]) -> float:
        """Of one step: the median after a warm-up."""
        times = []
        for _ in range(2 + self.steps):
            self.wait()
            begin = time.perf_counter()
            step()
            self.wait()
            times.append(time.perf_counter() - begin)
        return statistics.median(times[2:])

    def loop(
        self, model: nn.Module, batch: tuple[Tensor, Tensor], *instructions: Any, **more: Any
    ) -> dict[str, Any]:
        """Seconds of a step of the training loop, the peak above the level before, losses, and what was told."""
        self.clean()
        before, times, losses = memory_in_use(self.device), [], []
        loop = TrainingLoop(
            model,
            [batch] * (3 + self.steps),
            cross_entropy,
            instructions=instructions,
            optimizer=partial(torch.optim.AdamW, lr=1e-4, fused=True),
            device=self.device.type,
            **more,
        )

        def begin(batch: Any) -> None:
            self.wait()
            times.append(time.perf_counter())
            if loop.step == 2:  # what is found out in the first steps is not the step's
                reset_peak(self.device)

        def end(batch: Any) -> None:
            self.wait()
            times[-1] = time.perf_counter() - times[-1]
            losses.append(loop.last_loss.item())

        loop.on("batch_start", begin)
        loop.on("step_end", end)
        loop.fit()
        return {
            "seconds": statistics.median(times[3:]),
            "peak_mb": (recent_peak(self.device) - before) / 1e6,
            "last_loss": losses[-1],
            "told": loop.reported,
        }

    def turns(self, arms: Mapping[str, Arm]) -> dict[str, Any]:
        """Every arm in every round; the median of each figure; a failure with its reason."""
        found: dict[str, Any] = {}
        for number in range(self.rounds):
            for name in list(arms)[:: 1 if number % 2 else -1]:
                if "failed" in found.get(name, {}):
                    continue
                try:
                    figures = arms[name]()
                except Exception as error:  # one arm fewer, with the reason
                    found[name] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
                else:
                    found.setdefault(name, {"raw": []})["raw"].append(figures)
                self.clean()
        for figures in found.values():
            if raw := figures.get("raw"):
                keys = [key for key, value in raw[0].items() if isinstance(value, (int, float))]
                figures |= {key: statistics.median([one[key] for one in raw]) for key in keys}
        return {name: found[name] for name in arms}

    def limit(self, room: int) -> int:
        """Bytes that the process may hold from now on, which the allocator of a GPU keeps it to."""
        self.clean()
        limit = memory_in_use(self.device) + room
        if self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(limit / total, 1.0))
        return limit


# Parts ----------------------------------------------------------------------------------------------------


def precision(bench: Bench) -> dict[str, Any]:
    torch.set_float32_matmul_precision("high")  # TF32
    batch = bench.texts(4 if bench.tiny else 64)

    def with_amp(dtype: Any) -> Arm:
        return lambda: bench.loop(bench.transformer(), batch, AmpOptimizer(dtype=dtype))

    def accelerate() -> dict[str, Any]:
        from accelerate import Accelerator

        accelerator = Accelerator(mixed_precision="bf16", cpu=bench.device.type == "cpu")
        bench.clean()
        before = memory_in_use(bench.device)
        model = bench.transformer()
        model, optimizer = accelerator.prepare(
            model, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        )

        def step() -> None:
            optimizer.zero_grad()
            loss = cross_entropy(model(batch[0]), batch[1])
            accelerator.backward(loss)
            optimizer.step()

        reset_peak(bench.device)
        seconds = bench.seconds(step)
        return {"seconds": seconds, "peak_mb": (recent_peak(bench.device) - before) / 1e6}

    arms: dict[str, Arm] = {
        "tf32": lambda: bench.loop(bench.transformer(), batch),
        "bfloat16": with_amp("bfloat16"),
        "accelerate bfloat16": accelerate,
    }
    if bench.device.type != "cpu":
        arms |= {"float16": with_amp("float16"), "float8": with_amp("float8")}
    return against(bench.turns(arms), "tf32")


def search(bench: Bench) -> dict[str, Any]:
    limit, most = 2**62, 512 if bench.tiny else 2048
    asked: list[int] = []
    model = bench.resnet()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step(samples: int) -> int:
        asked.append(samples)
        inputs, targets = bench.images(samples)
        reset_peak(bench.device)
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        if recent_peak(bench.device) > limit:
            raise torch.OutOfMemoryError("over the limit: out of memory.")  # words that Accelerate knows
        return samples

    def fits(samples: int) -> bool:
        try:
            step(samples)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            bench.clean()
        return True

    def timed(find: Callable[[], int]) -> dict[str, Any]:
        asked.clear()
        begin = time.perf_counter()
        found = find()
        return {"found": found, "seconds": time.perf_counter() - begin, "probes": list(asked)}

    def halved() -> int:
        from accelerate.utils import find_executable_batch_size

        found: int = find_executable_batch_size(lambda batch_size: step(batch_size), most)()
        return found

    step(2)  # what the first step loads is no sample's
    limit = bench.limit(2**27 if bench.tiny else 12 * 2**30)
    low, high = 1, most
    while high - low > max(low // 100, 1):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    arms: dict[str, Arm] = {
        "fulldeck": lambda: timed(lambda: largest_batch(step, limit, device=bench.device.type, most=most)),
        "accelerate": lambda: timed(halved),
    }
    result = against(bench.turns(arms), "accelerate")
    for one in result.values():
        if "found" in one:
            one["of_largest"] = one["found"] / low
    return {"largest": low, **result}


def halving(bench: Bench) -> dict[str, Any]:
    rows = 32 if bench.tiny else 512
    limit, batch = bench.limit(2**26 if bench.tiny else 16 * 2**30), bench.images(rows)

    def foreseen() -> dict[str, Any]:
        told = bench.loop(bench.resnet(), batch, DynamicBatchScheduler(budget=spoken_bytes(limit), high=0.97))
        return told | {"images_per_second": rows / told["seconds"]}

    def halved() -> dict[str, Any]:
        size = rows
        while True:
            try:
                told = bench.loop(bench.resnet(), batch, micro_batch=size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                told = {}
            bench.clean()
            if told and told["peak_mb"] * 1e6 <= limit:
                return told | {"images_per_second": rows / told["seconds"], "micro_batch": size}
            size //= 2

    return against(bench.turns({"fulldeck": foreseen, "halved": halved}), "halved")


def blocks(bench: Bench) -> dict[str, Any]:
    batch = bench.texts(8 if bench.tiny else 64)

    def around_every_block(model: nn.Module) -> None:
        for block in checkpoint_blocks_of(model):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]

    ways: dict[str, Callable[[nn.Module], object]] = {
        "plain": lambda model: None,
        "fulldeck": checkpoint_blocks,
        "fulldeck, products kept": partial(checkpoint_blocks, keep="products"),
        "a checkpoint around every block": around_every_block,
    }
    gradients: dict[str, list[Tensor]] = {}

    def arm(name: str) -> dict[str, Any]:
        model = bench.transformer(dropout=0.1)
        ways[name](model)
        torch.manual_seed(1)
        cross_entropy(model(batch[0]), batch[1]).backward()
        gradients[name] = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        same = all(
            torch.equal(a, b)
            for a, b in zip(gradients[name], gradients.get("plain", gradients[name]), strict=True)
        )
        return bench.loop(model, batch) | {"gradients_equal": float(same)}

    arm("plain")
    return against(bench.turns({name: partial(arm, name) for name in ways}), "plain")


def checkpoint_blocks_of(model: nn.Module) -> Sequence[nn.Module]:
    found = checkpoint_blocks(model)
    names = found.names
    found.remove()
    return [model.get_submodule(name) for name in names]


def four_times(bench: Bench) -> dict[str, Any]:
    rows = 4 if bench.tiny else 32
    per_sample: dict[str, Arm] = {}
    room = int(1.05e6 * bench.loop(bench.transformer(0.1), bench.texts(rows))["peak_mb"])
    if bench.tiny:  # what a process holds wavers by more than so small a model
        room *= 8

    def arm(times: int, *instructions: Any) -> dict[str, Any]:
        told = bench.loop(bench.transformer(0.1), bench.texts(times * rows), *instructions)
        return told | {"seconds_a_sample": told["seconds"] / (times * rows)}

    def all_three() -> dict[str, Any]:
        bench.clean()
        budget = spoken_bytes(memory_in_use(bench.device) + room)
        return arm(4, LrScheduler(), DynamicBatchScheduler(budget=budget, high=1.0), GradientCheckpointing())

    per_sample = {
        "plain": partial(arm, 1),
        "plain, four times": partial(arm, 4),
        "fulldeck, four times": all_three,
    }
    return against(bench.turns(per_sample), "plain", "seconds_a_sample")


def compilation(bench: Bench) -> dict[str, Any]:
    batch = bench.texts(4 if bench.tiny else 64)
    amp = AmpOptimizer(dtype="bfloat16")
    compiled = TrainStepCompilation(measure=not bench.tiny, backend="eager" if bench.tiny else "inductor")
    arms: dict[str, Arm] = {
        "bfloat16": lambda: bench.loop(bench.transformer(), batch, amp),
        "bfloat16, compiled": lambda: bench.loop(bench.transformer(), batch, amp, compiled),
    }
    return against(bench.turns(arms), "bfloat16")


def optimizers(bench: Bench) -> dict[str, Any]:
    def arm(kind: Any) -> dict[str, Any]:
        model = bench.transformer()
        chosen = make_optimizers(model, kind)
        for one in chosen:
            if kind == "schedule_free":
                one.train()  # type: ignore[attr-defined]
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)

        def step() -> None:
            for one in chosen:
                one.step()

        return {"seconds": bench.seconds(step), "state_mb": sum(map(state_bytes, chosen)) / 1e6}

    kinds = [
        "adamw",
        "muon",
        "lion",
        "schedule_free",
        *([] if bench.device.type == "cpu" else ["adamw_8bit"]),
    ]
    return against(bench.turns({kind: partial(arm, kind) for kind in kinds}), "adamw")


def waiting(bench: Bench) -> dict[str, Any]:
    batch = bench.texts(4 if bench.tiny else 32)
    instructions = [LrScheduler(), AmpOptimizer(dtype="bfloat16"), GradientStabilization(), WeightAveraging()]
    waits: list[str] = []
    loop = TrainingLoop(
        bench.transformer(),
        [batch] * 40,
        cross_entropy,
        instructions=instructions,
        optimizer=partial(torch.optim.AdamW, lr=1e-4, fused=True),
        device=bench.device.type,
    )

    def strict(batch: Any) -> None:
        # The first steps compare precisions and fill the window of norms.
        if loop.step == 30 and bench.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")

    def lenient(batch: Any) -> None:
        if loop.step == 38 and bench.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")

    loop.on("batch_start", strict)
    loop.on("step_end", lenient)
    try:
        loop.fit()
    except RuntimeError:
        waits.append(traceback.format_exc()[-2000:])
    finally:
        if bench.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return {"eight steps": {"waits": float(len(waits)), "what": waits}}


def against(arms: dict[str, Any], base: str, time_is: str = "seconds") -> dict[str, Any]:
    """Add how many times as fast as `base` each arm is, and its memory as a share of that one's."""
    for one in arms.values():
        if time_is in one and time_is in arms[base]:
            one["times_as_fast"] = arms[base][time_is] / one[time_is]
        if arms[base].get("peak_mb") and "peak_mb" in one:
            one["memory_ratio"] = one["peak_mb"] / arms[base]["peak_mb"]
    return arms


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "precision": precision,
    "search": search,
    "halving": halving,
    "blocks": blocks,
    "four_times": four_times,
    "compilation": compilation,
    "optimizers": optimizers,
    "waiting": waiting,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="only shows that it runs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("training.json"))
    parser.add_argument("--seconds", type=float, default=480.0)
    options = parser.parse_args()
    device, started = torch.device(options.device), time.monotonic()
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "weights": "random",
        "parts": {},
        "left_out": [],
    }
    for part in options.parts:
        if time.monotonic() - started > options.seconds:
            result["left_out"].append(part)
            continue
        begun = time.monotonic()
        try:
            found = PARTS[part](Bench(device, options.tiny, 1 if options.tiny else options.rounds))
        except Exception as error:  # the other parts are worth having
            found = {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
        finally:
            if device.type == "cuda":
                torch.cuda.set_per_process_memory_fraction(1.0)
        result["parts"][part] = {
            "goal": GOALS[part],
            **found,
            "part_seconds": round(time.monotonic() - begun, 1),
        }
        show(part, result["parts"][part])
        result["seconds"] = round(time.monotonic() - started, 1)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(options.out)


def show(part: str, found: Mapping[str, Any]) -> None:
    print(f"\n{part} (goal: {found['goal']}), {found['part_seconds']} s")
    for name, value in found.items():
        if isinstance(value, Mapping):
            figures = {key: one for key, one in value.items() if key not in ("raw", "told")}
            spoken = (
                f"{key} {one:.4g}" if isinstance(one, float) else f"{key} {one}"
                for key, one in figures.items()
            )
            print(f"  {name:<34}{', '.join(spoken)}")
        elif name not in ("goal", "part_seconds"):
            print(f"  {name}: {value}")


if __name__ == "__main__":
    main()
