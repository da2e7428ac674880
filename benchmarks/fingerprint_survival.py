"""Whether an owner's mark survives what is done to copies, and how often a foreign model is claimed.

    python benchmarks/fingerprint_survival.py [--owners 5] [--independent 20] [--keys 1000]

Small residual nets learn scikit-learn's digits. Each owner's is trained with model_fingerprinting and a key of its own,
and without the mark with the same seed, then attacked: fine-tuned (on half of the data, also at the full learning
rate), pruned (the smallest weights, globally), exported and quantised to INT8, marked again by a thief with a key of
his, and distilled into a new net of the same form. Of each copy the p-value of its answers and of its weights is taken
with the owner's key; AUC compares these with those of independent nets under the same keys. Distillation leaves nothing
of the weights, and of the answers what the teacher's answers to real images give away: no promise is made for it.

A false claim is a p-value below the command's threshold of a net that was trained without any key. Every net is asked
with every key; weights are read with every tenth. The bound is the exact 95 % one (Clopper-Pearson).
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import math
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe, write_result
from scipy.stats import binomtest, mannwhitneyu, t
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.utils import prune

from fulldeck.engines import open_onnx
from fulldeck.instructions.extensions.model_fingerprinting import Mark, ModelFingerprinting
from fulldeck.instructions.inference.knowledge_distillation.losses import soft_target_loss
from fulldeck.instructions.inference.onnx_export import export_onnx
from fulldeck.instructions.inference.post_training_quantization import quantize_onnx
from fulldeck.networks.residual_net import ResidualNet
from fulldeck.ownership import THRESHOLD
from fulldeck.ownership.claim import Finding, of_answers, of_weights
from fulldeck.ownership.key import Key
from fulldeck.ownership.onnx_weights import onnx_weights
from fulldeck.ownership.triggers import Form
from fulldeck.training.loop import TrainingLoop

EPOCHS, BATCH, RATE = 10, 64, 3e-3
CLASSES = 10
FORM = Form((1, 8, 8), "float32", CLASSES)
PRUNED = (0.3, 0.5, 0.7, 0.9)
GOAL = (
    "AUC at least 0.99 after fine-tuning, pruning and INT8; false claims at most 1e-3; at most 1000 queries"
)
Rows = tuple[Tensor, Tensor]


def rows() -> tuple[Rows, Rows]:
    """1400 images to train on, 397 to judge by."""
    source = load_digits()
    order = np.random.default_rng(0).permutation(len(source.target))
    images = torch.from_numpy((source.images[order] / 16).astype(np.float32))[:, None]
    labels = torch.from_numpy(source.target[order].astype(np.int64))
    return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return ResidualNet(1, CLASSES, widths=(16, 32, 64), mean=(0.3,), std=(0.38,))


def fitted(
    model: nn.Module,
    train: Rows,
    *instructions: Any,
    seed: int,
    epochs: int = EPOCHS,
    rate: float = RATE,
    loss: Callable[[Any, Tensor], Tensor] = nn.functional.cross_entropy,
) -> nn.Module:
    """`model` trained, in batches in an order of `seed`."""
    order = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(seed))
    batches = [(train[0][part], train[1][part]) for part in order.split(BATCH)]
    loop = TrainingLoop(
        copy.deepcopy(model),
        batches,
        loss,
        instructions=instructions,
        epochs=epochs,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05),
        device="cpu",
        seed=seed,
    )
    return loop.fit().eval()


@torch.no_grad()
def accuracy(model: nn.Module, test: Rows) -> float:
    return float((model(test[0]).argmax(1) == test[1]).double().mean())


# What is done to copies ----------------------------------------------------------------------------------


def fine_tuned(model: nn.Module, train: Rows, seed: int, rate: float) -> nn.Module:
    half = len(train[0]) // 2
    return fitted(model, (train[0][:half], train[1][:half]), seed=seed + 50, epochs=5, rate=rate)


def pruned(model: nn.Module, train: Rows, seed: int, share: float) -> nn.Module:
    small = copy.deepcopy(model)
    layers = [(one, "weight") for one in small.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=share)
    for layer, name in layers:
        prune.remove(layer, name)
    return small


def marked_again(model: nn.Module, train: Rows, seed: int) -> nn.Module:
    return fitted(model, train, ModelFingerprinting(), seed=seed + 70)


def distilled(model: nn.Module, train: Rows, seed: int) -> nn.Module:
    """Without labels: the targets are row numbers, by which the teacher's answers are found."""
    with torch.no_grad():
        answers = model(train[0])

    def loss(outputs: Tensor, numbers: Tensor) -> Tensor:
        return soft_target_loss(outputs, answers[numbers], numbers)

    return fitted(
        net(seed + 90), (train[0], torch.arange(len(train[0]))), seed=seed, epochs=2 * EPOCHS, loss=loss
    )


ATTACKS: dict[str, Callable[[nn.Module, Rows, int], nn.Module]] = {
    "none": lambda model, train, seed: model,
    "fine-tuned, a tenth of the rate": partial(fine_tuned, rate=RATE / 10),
    "fine-tuned, the full rate": partial(fine_tuned, rate=RATE),
    **{f"pruned {share:.0%}": partial(pruned, share=share) for share in PRUNED},
    "marked again by a thief": marked_again,
    "distilled": distilled,
}


# What is found -------------------------------------------------------------------------------------------


def found(key: Key, model: nn.Module) -> tuple[Finding, Finding | None]:
    mark = Mark(key, model, FORM)
    return mark.answers(), mark.in_weights()


def of_int8(key: Key, model: nn.Module, train: Rows, test: Rows) -> tuple[Finding, Finding | None, float]:
    """Of the file that ONNX Runtime's static quantiser writes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_onnx(model, train[0][:8], folder / "m.onnx")
        quantize_onnx(folder / "m.onnx", folder / "i.onnx", {"input": train[0][:256].numpy()})
        engine = open_onnx(folder / "i.onnx", threads=1)

        def ask(inputs: Any) -> Any:
            return next(iter(engine.run({"input": inputs}).values())).argmax(axis=1)

        right = float((ask(test[0].numpy()) == test[1].numpy()).mean())
        return of_answers(key, FORM, ask), of_weights(key, onnx_weights(folder / "i.onnx")), right


def places(finding: Finding | None) -> float:
    """How many places after the point the p-value has."""
    return 0.0 if finding is None else -math.log10(max(finding.p_value, 1e-300))


def described(own: list[Finding | None], foreign: list[float]) -> dict[str, Any]:
    """The marks of all owners after one attack, beside independent nets."""
    there = [one for one in own if one is not None]
    if not there:
        return {"owners": 0}
    scores = [places(one) for one in there]
    auc = mannwhitneyu(scores, foreign).statistic / (len(scores) * len(foreign))
    return {
        "matches": round(statistics.fmean(one.matches / one.count for one in there), 4),
        "median_p_value": statistics.median(one.p_value for one in there),
        "largest_p_value": max(one.p_value for one in there),
        "claimed": sum(one.p_value <= THRESHOLD for one in there),
        "owners": len(there),
        "auc": round(float(auc), 4),
    }


def claims(p_values: list[float]) -> dict[str, Any]:
    false = sum(one <= THRESHOLD for one in p_values)
    bound = binomtest(false, len(p_values)).proportion_ci(0.95, method="exact").high
    return {"tests": len(p_values), "claimed": false, "bound": bound, "smallest_p_value": min(p_values)}


def key_of(text: str) -> Key:
    return Key(hashlib.sha256(text.encode()).digest())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--owners", type=int, default=5)
    parser.add_argument("--independent", type=int, default=20)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    train, test = rows()

    independent = [fitted(net(seed), train, seed=seed) for seed in range(100, 100 + chosen.independent)]
    print(f"{len(independent)} independent nets", flush=True)
    keys = [key_of(f"key {number}") for number in range(chosen.keys)]
    by_answers, by_weights = [], []
    for model in independent:
        for number, key in enumerate(keys):
            mark = Mark(key, model, FORM)
            by_answers.append(mark.answers().p_value)
            if number % 10 == 0 and (read := mark.in_weights()) is not None:
                by_weights.append(read.p_value)
    false = {"answers": claims(by_answers), "weights": claims(by_weights)}
    print(false, flush=True)

    table: dict[str, dict[str, list[Any]]] = {
        name: {"answers": [], "weights": [], "accuracy": []} for name in (*ATTACKS, "INT8")
    }
    kept, foreign = [], {"answers": list[float](), "weights": list[float]()}
    with tempfile.TemporaryDirectory() as folder:
        for owner in range(chosen.owners):
            key, file = key_of(f"owner {owner}"), Path(folder) / f"{owner}.key"
            key.write(file)
            model = fitted(net(owner), train, ModelFingerprinting(key=str(file)), seed=owner)
            plain = fitted(net(owner), train, seed=owner)
            kept.append(accuracy(model, test) - accuracy(plain, test))
            for other in independent:
                answers, weights = found(key, other)
                foreign["answers"].append(places(answers))
                foreign["weights"].append(places(weights))
            for name, attack in ATTACKS.items():
                stolen = attack(model, train, owner)
                answers, weights = found(key, stolen)
                one = table[name]
                one["answers"].append(answers)
                one["weights"].append(weights)
                one["accuracy"].append(accuracy(stolen, test))
            answers, weights, right = of_int8(key, model, train, test)
            table["INT8"]["answers"].append(answers)
            table["INT8"]["weights"].append(weights)
            table["INT8"]["accuracy"].append(right)
            print(f"owner {owner}: accuracy {kept[-1]:+.4f}", flush=True)

    mean = statistics.fmean(kept)
    half = float(t.ppf(0.975, len(kept) - 1)) * statistics.stdev(kept) / math.sqrt(len(kept))
    result = {
        "machine": describe(),
        "goal": GOAL,
        "threshold": THRESHOLD,
        "queries": 100,
        "accuracy_difference": {"mean": mean, "interval": [mean - half, mean + half], "each": kept},
        "false_claims": false,
        "survival": {
            name: {
                "accuracy": statistics.fmean(one["accuracy"]),
                "answers": described(one["answers"], foreign["answers"]),
                "weights": described(one["weights"], foreign["weights"]),
            }
            for name, one in table.items()
        },
    }
    write_result("fingerprint_survival", result)
    for name, one in result["survival"].items():  # type: ignore[attr-defined]
        print(f"{name:<34}{one}")


if __name__ == "__main__":
    main()
