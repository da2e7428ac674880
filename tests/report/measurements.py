"""What `fulldeck diagnose` and `fulldeck verify` leave, written by hand: small, with the documented keys."""

from typing import Any

MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "threads": 1,
    "accelerator": None,
    "system": "Linux",
    "load": 0.5,
    "versions": {"fulldeck": "0.1.0", "python": "3.11.7", "torch": "2.13.0+cpu"},
}
CEILINGS = {
    "flops_per_s": {"float32": 105e9, "bfloat16": 226e9, "float16": 1.7e9, "int8": 440e9},
    "bytes_per_s": 33e9,
    "launch_s": 9e-7,
}


def diagnosis(**changed: Any) -> dict[str, Any]:
    """Of a training that is bound by arithmetic; one advice fits, one is blocked."""
    return {
        "schema": 1,
        "kind": "training",
        "recipe": "cifar10",
        "workload": "cifar10",
        "device": "cpu",
        "threads": 1,
        "steps": {"warm_up": 3, "timed": 25, "profiled": 4},
        "step": {
            "milliseconds": 118.4,
            "phases": {
                **{"data": 0.062, "transfer": 0.002, "instructions": 0.008, "forward": 0.31},
                **{"backward": 0.562, "optimizer": 0.056, "communication": 0.0},
            },
            "bounds": {
                **{"data": 0.062, "transfer": 0.002, "instructions": 0.008, "optimizer": 0.056},
                **{"communication": 0.0, "launch": 0.031, "memory": 0.201, "compute": 0.64},
            },
        },
        "operators": [
            operator("convolution_backward", "backward", 44.2, 3.9e9, 96e6),
            operator("convolution", "forward", 24.1, 2.0e9, 58e6),
            operator("native_batch_norm_backward", "backward", 11.7, 0, 190e6),
            operator("native_batch_norm", "forward", 6.5, 0, 128e6),
            operator("_fused_adamw_", "optimizer", 6.1, 0, 160e6),
            operator("threshold_backward", "backward", 4.4, 0, 96e6),
            operator("addmm", "forward", 2.2, 8.4e7, 3.4e6),
            operator("mm", "backward", 3.1, 1.7e8, 6.6e6),
            operator("clamp_min", "forward", 1.9, 0, 64e6),
            operator("add_", "forward", 1.1, 0, 2e3, bound="launch"),
        ],
        "ceilings": CEILINGS,
        "memory": {
            **{"weights": 44_700_000, "gradients": 44_700_000, "optimizer_state": 89_400_000},
            **{"activations": 310_000_000, "batch": 1_570_000},
            **{"peak": 1_210_000_000, "limit": 25_276_502_016},
        },
        "pipeline": {"batches_per_s": 137.0, "padding": None, "padding_in_batch": None},
        "recompiles": 0,
        "bottleneck": {
            **{"class": "compute", "share": 0.64, "clear": True, "missing": None},
            "sentence": "64% of a step is arithmetic: matrix products and convolutions, most of all "
            "convolution_backward (37% of the step).",
            "remedy": "narrower types, fewer operations, or a faster device",
        },
        "beside": [],
        "advice": [
            advice("amp_optimizer", 18, 0.66),
            advice("train_step_compilation", 19, 0.91, cost="the first step compiles for half a minute"),
            advice(
                "gradient_checkpointing", 23, 0.97, blocked="it needs repeated blocks; the model has none"
            ),
        ],
        "time": "2026-11-24T03:06:22+0000",
        "machine": MACHINE,
        "seconds": 21.3,
    } | changed


def operator(
    name: str, phase: str, ms: float, flops: float, moved: float, bound: str = "memory"
) -> dict[str, Any]:
    """One of a diagnosis; a step has 118.4 ms."""
    seconds = ms / 1000
    return {
        "name": f"aten::{name}",
        "phase": phase,
        "shapes": [[128, 64, 32, 32], [64, 64, 3, 3]],
        "dtype": "float32",
        "calls": 17.0,
        "milliseconds": ms,
        "share": ms / 118.4,
        "flops": flops,
        "bytes": moved,
        "flops_per_s": flops / seconds,
        "bytes_per_s": moved / seconds,
        "flops_of_ceiling": flops / seconds / 105e9,
        "bytes_of_ceiling": moved / seconds / 33e9,
        "intensity": flops / moved if moved else None,
        "bound": "compute" if flops else bound,
        "in_bfloat16": 0.47 if flops else None,
    }


def advice(name: str, number: int, predicted: float, **changed: Any) -> dict[str, Any]:
    """One of a diagnosis, not measured."""
    return {
        "name": name,
        "number": number,
        "parameters": {"dtype": "bfloat16"} if name == "amp_optimizer" else {},
        "figure": "step_time",
        "predicted": predicted,
        "reason": "matrix products and convolutions in float32 are 62% of a step, and take 0.47x as long in "
        "bfloat16",
        "cost": "rounding to three digits",
        "eases": ["compute"],
        "blocked": None,
    } | changed


def verified_diagnosis() -> dict[str, Any]:
    """After --verify: one prediction held, one missed."""
    result = diagnosis()
    first, second, _ = result["advice"]
    first["verified"] = {
        **{"verdict": "helps", "metric": "step_time", "ratio": 0.64, "interval": [0.62, 0.67], "rounds": 15},
        **{"kept": True, "missed": False, "reason": None, "costs": [cost()]},
    }
    second["verified"] = {
        **{"verdict": "no difference", "metric": "step_time", "ratio": 1.01, "interval": [0.985, 1.03]},
        **{"rounds": 60, "kept": False, "missed": True, "reason": None, "costs": []},
    }
    result["improvement"] = {
        **{"status": "finished", "kept": ["amp_optimizer"], "output": "better.yaml", "metric": "step_time"},
        **{"ratio": 0.64, "interval": [0.62, 0.67], "rounds": 15, "verdict": "helps"},
    }
    return result


def inference_diagnosis() -> dict[str, Any]:
    """Of a finished model."""
    names = ("convolution", "addmm", "native_layer_norm", "relu")
    return diagnosis(
        kind="inference",
        run="runs/20261124-030651-digits",
        recipe="digits",
        workload="digits",
        step={
            "milliseconds": 0.52,
            "phases": {"forward": 1.0},
            "bounds": {"launch": 0.55, "memory": 0.05, "compute": 0.4},
        },
        operators=[
            operator(name, "forward", 0.1 / (1 + place), 1e6 if place < 2 else 0, 5e4)
            for place, name in enumerate(names)
        ],
        pipeline=None,
        memory=None,
        bottleneck={
            **{"class": "launch", "share": 0.55, "clear": True},
            "sentence": "55% of a pass is starting many small operators, not running them: 31 operators.",
            "remedy": "compiling into few kernels, or a larger batch",
            "missing": "compiling into few kernels, or a larger batch",
        },
        batches={
            rows: {
                "milliseconds": ms,
                "rows_per_s": 1000 * int(rows) / ms,
                "bounds": {"launch": 0.55, "memory": 0.05, "compute": 0.4},
                "operators": [],
            }
            for rows, ms in (("1", 0.52), ("32", 2.9))
        },
        layers=[
            {
                "name": f"features.{place}.convolution",
                "kind": "Conv2d",
                "bytes": 36_864 * (1 + place),
                "error": {"int8": 0.004 * (1 + 9 * place), "bfloat16": 0.001} if place < 2 else {},
                "tolerates": ("int8", "bfloat16", "unknown")[place],
            }
            for place in range(3)
        ],
        chains=[["features.0.convolution", "features.0.norm", "features.0.relu"], ["head.0", "head.1"]],
        engines=[
            {"name": "onnxruntime", "reason": None},
            {"name": "tensorrt", "reason": "there is no NVIDIA GPU"},
        ],
        advice=[advice("post_training_quantization", 28, 0.55, figure="latency")],
    )


def measured(
    name: str, verdict: str, ratio: float, low: float, high: float, **changed: Any
) -> dict[str, Any]:
    """A result of `fulldeck verify`, of a step's time."""
    return {
        "schema": 1,
        "name": name,
        "number": 18,
        "parameters": {},
        "recipe": {"baseline": {}, "treatment": {}},
        "workload": "digits",
        "metric": "step_time",
        "verdict": verdict,
        "claim": "<= 0.7x",
        "claim_holds": high <= 0.7,
        "ratio": ratio,
        "interval": [low, high],
        "baseline": 9.1,
        "treatment": 9.1 * ratio,
        "rounds": 30,
        "control": {"ratio": 1.002, "interval": [0.985, 1.017]},
        "costs": [],
        "not_measured": [],
        "peers": {},
        "samples": {},
        "status": "finished",
        "quick": False,
        "seconds": 91.0,
        "time": "2026-11-24T03:06:14+0000",
        "machine": MACHINE,
    } | changed


def cost(**changed: Any) -> dict[str, Any]:
    """Of a result: accuracy, as a difference."""
    return {
        "metric": "accuracy",
        "verdict": "no difference",
        "claim": ">= -0.005",
        "claim_holds": True,
        "difference": 0.0011,
        "interval": [-0.0021, 0.0043],
        "baseline": 0.9712,
        "treatment": 0.9723,
        "rounds": 5,
    } | changed


def evidence() -> list[dict[str, Any]]:
    """One of each verdict, a figure that stands alone, and one of a single seed."""
    return [
        measured("amp_optimizer", "helps", 0.62, 0.6, 0.65, costs=[cost()]),
        measured(
            "auto_data_augmentation",
            "helps",
            0,
            **{"low": 0.012, "high": 0.049, "metric": "robust_accuracy", "claim": ">= +0.02"},
            **{"difference": 0.031, "claim_holds": None, "control": None, "baseline": 0.61},
            **{
                "treatment": 0.641,
                "rounds": 5,
                "costs": [cost(verdict="hurts", difference=-0.012, interval=[-0.019, -0.005])],
            },
        ),
        measured("lr_scheduler", "no difference", 1.004, 0.99, 1.02, metric="steps_to_target"),
        measured(
            "train_step_compilation",
            "inconclusive",
            0.97,
            **{"low": 0.88, "high": 1.06, "rounds": 60},
            reason="the interval holds both a gain and a loss; about 240 rounds would decide",
            peers={"lightning": {"peer": "lightning", "ratio": 1.21, "interval": [1.1, 1.3]}},
        ),
        measured("weight_averaging", "hurts", 1.31, 1.22, 1.45, metric="validation_loss", control=None),
        measured(
            "model_packaging",
            "helps",
            1.0,
            **{"low": 1.0, "high": 1.0, "metric": "tampering_refused", "claim": ">= 1.0"},
            **{"baseline": None, "treatment": 1.0, "claim_holds": True, "control": None},
        ),
        measured(
            "gradient_checkpointing",
            "inconclusive",
            0.8,
            **{"low": float("-inf"), "high": float("inf"), "metric": "peak_memory", "rounds": 1},
            **{"baseline": 1.2e9, "treatment": 0.96e9, "control": None, "status": "interrupted"},
        ),
    ]


def contributions() -> dict[str, Any]:
    """Of four instructions; the last pair was not measured."""
    labels = ("leakage_safe_splitting", "auto_data_augmentation", "lr_scheduler", "weight_averaging")

    def found(estimate: float, width: float) -> dict[str, Any]:
        return {"estimate": estimate, "interval": [estimate - width, estimate + width]}

    singles = [
        {
            "label": label,
            "accuracy": found(gain, 0.004),
            "verdict": verdict,
            "step_time_ms": found(1 + 0.1 * place, 0.02) | {"verdict": "hurts" if place else "no difference"},
            "artifact_bytes": found(1.0, 0.0) | {"verdict": "no difference"},
        }
        for place, (label, gain, verdict) in enumerate(
            zip(
                labels,
                (-0.001, 0.021, 0.011, -0.008),
                ("no difference", "helps", "helps", "hurts"),
                strict=True,
            )
        )
    ]
    pairs = [
        {"labels": [labels[one], labels[other]], "interaction": found(estimate, 0.005), "verdict": verdict}
        for one, other, estimate, verdict in (
            (0, 1, 0.001, "inconclusive"),
            (0, 2, 0.0, "no difference"),
            (0, 3, -0.002, "inconclusive"),
            (1, 2, 0.014, "helps"),
            (1, 3, -0.017, "hurts"),
        )
    ]
    return {
        "schema": 1,
        "recipe": {},
        "name": "digits-robust",
        "workload": "digits",
        "metric": "accuracy",
        "seeds": 5,
        "instructions": singles,
        "pairs": pairs,
        "left_in": {"onnx_export": "post_training_quantization needs it"},
        "status": "finished",
        "ended": "the budget was spent",
        "samples": {},
        "seconds": 321.0,
        "time": "2026-11-24T04:06:14+0000",
        "machine": MACHINE,
    }
