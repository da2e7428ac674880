"""Are the verdicts of `verify` right? A planted no-op and a planted slow-down of a tenth, many times over.

    python benchmarks/verdicts.py [--repeats 20] [--workload digits] [--only NAME] [--add]

A plugin with two instructions is made in a temporary folder: one that does nothing, and one that makes the forward
and backward passes of each step a tenth longer. All on one thread: others would fall asleep meanwhile, and to wake
them is no part of the tenth. Each is verified `--repeats` times. Right is *no difference* for the first and *hurts*
for the second; *inconclusive* is counted apart. Goal: right in 18 of 20.
Results: `benchmarks/results/verdicts.json`; `--only` measures one of the two, `--add` keeps the
repeats that are there.

    python benchmarks/verdicts.py --record

writes the step times of one training beside whatever else runs to `tests/evidence/step_times.json`: the
noise that the statistics are tested on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from machine import RESULTS, describe, write_result

import fulldeck as fd
from fulldeck.catalogue import catalogue
from fulldeck.evidence.verify import verify
from fulldeck.files import write_json
from fulldeck.watchers.watcher import Watcher

RECORDED = Path(__file__).parents[1] / "tests" / "evidence" / "step_times.json"
STEPS = 600
PLUGIN = '''"""A planted effect."""

import time
from typing import Any

from fulldeck.instruction import Evidence, Instruction, instruction, param


@instruction(190, stage="training", evidence=Evidence(workload="{workload}", metric="step_time", expect="<= 1.03x"))
class PlantedDelay(Instruction):
    """Burn processor time in each step, as a share of what its forward and backward passes took."""

    share: float = param(0.0, ge=0, doc="How much.")

    def attach(self, loop: Any) -> None:
        def slower(batch: Any, inner: Any) -> None:
            begun = time.perf_counter()
            inner(batch)
            now = time.perf_counter()
            end = now + self.share * (now - begun)
            while time.perf_counter() < end:
                pass

        if self.share:
            loop.around("gradients", slower)
'''


class StepTimes(Watcher):
    """Milliseconds of each step."""

    def __init__(self) -> None:
        self.milliseconds: list[float] = []
        self.begun = 0.0

    def training(self, loop: Any) -> None:
        def begin(batch: Any) -> None:
            self.begun = time.perf_counter()

        def end(batch: Any) -> None:
            self.milliseconds.append(round(1000 * (time.perf_counter() - self.begun), 3))

        loop.on("batch_start", begin)
        loop.on("step_end", end)


def record(workload: str, steps: int) -> list[float]:
    """Step times of a training without instructions, the first twenty left out."""
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        fd.run(workload, [], out=folder, watcher=times, epochs=1000, max_steps=steps + 20)
    return times.milliseconds[20:]


def plant(folder: Path, workload: str) -> None:
    """Install the plugin below `folder`, for this process and for those that it starts."""
    info = folder / "planted-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "planted.py").write_text(PLUGIN.replace("{workload}", workload))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fulldeck.instructions]\nplanted_delay = planted:PlantedDelay\n")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    # What was read before does not know it.
    catalogue.cache_clear()


def main() -> None:
    """Measure, and print how often each verdict was given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--workload", default="digits")
    parser.add_argument("--only", choices=("no-op", "a tenth slower"))
    parser.add_argument("--add", action="store_true")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    if options.record:
        write_json(RECORDED, {"machine": describe(), "milliseconds": record(options.workload, STEPS)})
        print(RECORDED)
        return
    arms = {"no-op": (0.0, "no difference"), "a tenth slower": (0.1, "hurts")}
    kept = RESULTS / "verdicts.json"
    results: dict[str, Any] = json.loads(kept.read_text())["planted"] if kept.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        plant(Path(folder), options.workload)
        for name, (share, right) in arms.items():
            if options.only not in (None, name):
                continue
            recipe = Path(folder) / "planted.yaml"
            recipe.write_text(
                f"workload: {options.workload}\ntrain: {{threads: 1}}\n"
                f"instructions:\n  - planted_delay: {{share: {share}}}\n"
            )
            found = results.get(name, {}) if options.add else {}
            for _ in range(options.repeats):
                found = results[name] = with_one_more(found, verify("planted_delay", recipe=recipe), right)
                # Kept at once: a measurement of many parts may be ended early.
                write_result("verdicts", {"machine": describe(), "planted": results})
            counts = {verdict: count for verdict, count in found["verdicts"].items() if count}
            print(f"{name:16} right {found['right']} of {found['repeats']}: {counts}", flush=True)


def with_one_more(found: dict[str, Any], one: dict[str, Any], right: str) -> dict[str, Any]:
    """The repeats so far and one more."""
    verdicts = Counter(found.get("verdicts", {})) + Counter([one["verdict"]])
    return {
        "right": verdicts[right],
        "repeats": sum(verdicts.values()),
        "verdicts": dict(verdicts),
        "ratios": [*found.get("ratios", ()), round(one["ratio"], 4)],
        "rounds": [*found.get("rounds", ()), one["rounds"]],
        "reasons": [*found.get("reasons", ()), *([one["reason"]] if "reason" in one else [])],
    }


if __name__ == "__main__":
    main()
