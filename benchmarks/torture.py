"""Kill -9 at random points of short runs, and look whether anything was lost, different or left behind.

    python benchmarks/torture.py [--points 300] [--rank-points 50] [--seed 0]

A point is a run of `fault_tolerant_checkpointing` with schedules, averages and early stopping beside it that
is killed once, every fourth one twice, and then gone on with by `resume`. Half of the points lie anywhere in
time, the other half between two operations on files (each open for writing, rename, removal, ...), which
is where a crash hurts most. Held against a run that was never killed:

- lost: the newest checkpoint after the kill is older than one that had been completed before, or cannot be
  read; or the run cannot be gone on with
- different: the weights, the state of training or a loss of any epoch has another bit
- stray: a file that the run that was never killed does not have, or lacks

The process imports torch once and forks. `--rank-points` is the same for a training of two processes, of
which one is killed (torture_ranks.py).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from machine import describe, write_result

from fulldeck.checkpoints.checkpoint import encode
from fulldeck.errors import BadInput
from fulldeck.files import write_json
from fulldeck.instructions.training.fault_tolerant_checkpointing import load_newest
from fulldeck.pipeline.run import run
from fulldeck.recipe.reader import read_recipe
from fulldeck.recipe.recipe import Recipe
from fulldeck.watchers.watcher import Watcher

RECIPE = """
workload: breast_cancer
train: {epochs: 3, batch_size: 64, device: cpu, threads: 1}
instructions:
  - lr_scheduler
  - gradient_stabilization
  - weight_averaging
  - early_stopping
  - fault_tolerant_checkpointing: {every_steps: 2, keep_last: 2, keep_best: 1}
"""
FILE_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate", "os.chmod"}
TWICE = 4
"""Every so many points the run is killed again while it goes on."""
RUN = re.compile(r"\d{8}-\d{6}-torture")


@dataclass
class Tally:
    """What was seen, and the first cases of each kind in words."""

    points: int = 0
    killed_between_file_operations: int = 0
    killed_in_time: int = 0
    ended_before_the_kill: int = 0
    killed_before_a_checkpoint: int = 0
    lost: int = 0
    different: int = 0
    stray: int = 0
    cases: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """The three figures that should be zero."""
        return f"{self.lost} lost, {self.different} different, {self.stray} stray"

    def note(self, kind: str, text: str) -> None:
        """Count one case."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.cases.append(f"{kind}: {text}")


@dataclass
class Seen:
    """What a run came to: hashes of its weights and state by name, its losses, its files, and its length."""

    values: dict[str, Any]
    files: list[str]
    seconds: float = 0.0
    operations: int = 0


class Operations:
    """Counts a process's operations on files; kills it before one, and tells of checkpoints that are complete.

    A step is told once the operation after its manifest's rename begins: it has been renamed by then.
    """

    def __init__(self, kill_before: int | None, tell: int) -> None:
        self.count = 0
        self.kill_before = kill_before
        self.tell = tell
        self.renamed: str | None = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR) or path == os.devnull:
                return
        elif event not in FILE_EVENTS:
            return
        self.count += 1
        if self.renamed is not None:
            os.write(self.tell, f"{self.renamed}\n".encode())
            self.renamed = None
        if self.count == self.kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "os.rename" and str(arguments[1]).endswith("manifest.json"):
            self.renamed = Path(arguments[1]).parent.name.removeprefix("step-")


def carry_out(recipe: Recipe, out: Path) -> None:
    """Go on with the run below `out`; begin one if there is none, as whoever restarts a job does."""
    resume = any(RUN.fullmatch(path.name) for path in out.iterdir()) if out.exists() else False
    run(recipe, out=out, resume=resume, watcher=Watcher())


@contextmanager
def forked(work: Callable[[], None], kill_before: int | None = None) -> Iterator[tuple[int, int]]:
    """A child that does `work`; its process id, and what it tells: steps, then the number of operations."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            operations = Operations(kill_before, writing)
            sys.addaudithook(operations)
            work()
            os.write(writing, f"operations {operations.count}\n".encode())
            code = 0
        except BadInput as error:
            os.write(writing, f"refused {error}\n".encode())
        finally:
            os._exit(code)
    os.close(writing)
    try:
        yield child, reading
    finally:
        os.close(reading)


def told(reading: int) -> tuple[list[int], dict[str, str]]:
    """Steps whose checkpoints were complete, and other words; blocks until the child has ended."""
    with os.fdopen(os.dup(reading)) as stream:
        lines = stream.read().splitlines()
    steps = [int(line) for line in lines if line.isdecimal()]
    return steps, dict(line.split(" ", 1) for line in lines if not line.isdecimal())


def killed(recipe: Recipe, out: Path, *, after: float | None, before: int | None) -> tuple[bool, list[int]]:
    """Run, and kill it `after` seconds or `before` an operation; whether it was in time, and steps told."""
    with forked(lambda: carry_out(recipe, out), before) as (child, reading):
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        steps, _ = told(reading)
        _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status), steps


def finished(recipe: Recipe, out: Path) -> tuple[Seen | None, str]:
    """Go on to the end; what it came to, or the reason why it could not."""
    begun = time.perf_counter()
    with forked(lambda: carry_out(recipe, out)) as (child, reading):
        _, words = told(reading)
        _, status = os.waitpid(child, 0)
    if status:
        return None, words.get("refused", f"ended with {os.waitstatus_to_exitcode(status)}")
    seen = look(out)
    seen.seconds, seen.operations = time.perf_counter() - begun, int(words["operations"])
    return seen, ""


def ended_well(out: Path) -> bool:
    """Whether the run below `out` says that it has finished."""
    results = [path / "result.json" for path in out.iterdir() if RUN.fullmatch(path.name)]
    return any(path.is_file() and json.loads(path.read_text())["status"] == "finished" for path in results)


def look(out: Path) -> Seen:
    """The values and the files below `out`."""
    (run,) = (path for path in out.iterdir() if RUN.fullmatch(path.name))
    result = json.loads((run / "result.json").read_text())
    values = state_values(run / "checkpoints")
    values |= {"history": result["training"]["history"], "status": result["status"]}
    values["weights"] = (run / "artifacts" / "model.safetensors").read_bytes()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values["metrics"] = [
        {name: value for name, value in line.items() if name != "phases_ms"} for line in lines
    ]
    found = (str(path.relative_to(out)).replace(run.name, "RUN") for path in out.rglob("*"))
    return Seen(values, sorted(found))


def state_values(checkpoints: Path) -> dict[str, Any]:
    """The newest state in a folder, by name, without the times that are in it."""
    _, state = load_newest(checkpoints)
    del state["clock"], state["reported"]
    tree, tensors = encode(state)
    return {"tree": json.dumps(tree), **{name: tensor.numpy().tobytes() for name, tensor in tensors.items()}}


def newest_step(checkpoints: Path) -> int | None:
    """The step of the newest checkpoint that can be read."""
    try:
        return load_newest(checkpoints)[0]
    except BadInput:
        return None


def compare(seen: Seen, reference: Seen, where: str, tally: Tally) -> None:
    """Count what differs from the run that was never killed."""
    if wrong := [name for name in reference.values if seen.values.get(name) != reference.values[name]]:
        tally.note("different", f"{where}: {', '.join(wrong[:3])}")
    if odd := sorted(set(seen.files) ^ set(reference.files)):
        tally.note("stray", f"{where}: {', '.join(odd[:3])}")


def point(
    recipe: Recipe, out: Path, number: int, reference: Seen, chance: random.Random, tally: Tally
) -> None:
    """One point: kill, look, go on, compare."""
    tally.points += 1
    for _ in range(2 if number % TWICE == 0 else 1):
        between = chance.random() < 0.5
        after = None if between else chance.uniform(0, reference.seconds)
        before = chance.randint(1, reference.operations) if between else None
        where = f"point {number}, " + (f"before operation {before}" if between else f"after {after:.3f} s")
        in_time, steps = killed(recipe, out, after=after, before=before)
        if not in_time:
            tally.ended_before_the_kill += 1
            break
        tally.killed_between_file_operations += between
        tally.killed_in_time += not between
        there = next(filter(None, map(newest_step, out.glob("*-torture/checkpoints"))), None)
        if steps and (there is None or there < max(steps)):
            tally.note("lost", f"{where}: step {max(steps)} was complete, {there} can be read")
        tally.killed_before_a_checkpoint += there is None
    if in_time:
        seen, why = finished(recipe, out)
        if seen is None and ended_well(out):
            seen = look(out)  # it was killed after it had finished, so there is nothing to go on with
        if seen is None:
            tally.note("lost", f"{where}: it cannot go on: {why}")
            return
    else:
        seen = look(out)
    compare(seen, reference, where, tally)


def torture(
    points: int, *, seed: int = 0, tell: Callable[[str], object] = lambda text: None
) -> dict[str, Any]:
    """Kill runs at `points` points; the tally, and what an undisturbed run is."""
    torch.set_num_threads(1)
    chance, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "torture.yaml"
        file.write_text(RECIPE)
        recipe = read_recipe(file)
        # Here, so that what a run imports is there in every child.
        carry_out(recipe, Path(folder) / "warm")
        reference, why = finished(recipe, Path(folder) / "reference")
        assert reference is not None, why
        for number in range(points):
            out = Path(folder) / f"point-{number}"
            point(recipe, out, number, reference, chance, tally)
            shutil.rmtree(out, ignore_errors=True)
            tell(f"one process, point {number + 1} of {points}: {tally.summary()}")
    return asdict(tally) | {"run_seconds": reference.seconds, "file_operations": reference.operations}


def main() -> None:
    """Print progress and the tallies, and write them to results/torture.json."""
    from torture_ranks import torture_ranks

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--rank-points", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="a file in place of results/torture.json")
    options = parser.parse_args()
    begun = time.perf_counter()

    def tell(text: str) -> None:
        print(text, flush=True)

    tallies = {
        "one_process": torture(options.points, seed=options.seed, tell=tell),
        "two_processes": torture_ranks(options.rank_points, seed=options.seed, tell=tell),
    }
    result = {"machine": describe(), "seconds": time.perf_counter() - begun, **tallies}
    print(json.dumps(tallies, indent=2))
    if options.output is None:
        print(f"written to {write_result('torture', result)}")
    else:
        write_json(options.output, result)
    sys.exit(any(tally[kind] for tally in tallies.values() for kind in ("lost", "different", "stray")))


if __name__ == "__main__":
    main()
