"""CPU time of `import fulldeck`, `fulldeck --help` and `fulldeck list`, beside a bare interpreter.

    python benchmarks/import_cost.py [--rounds 20]

Each command runs in a fresh process, all of them once a round in random order; user and system time of the
process, median and smallest. Goals: import at most 30 ms over bare Python, --help 200 ms, list 250 ms.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import subprocess
import sys

from machine import describe, write_result

COMMANDS = {
    "python": ["-c", "pass"],
    "import fulldeck": ["-c", "import fulldeck"],
    "fulldeck --help": ["-m", "fulldeck", "--help"],
    "fulldeck list": ["-m", "fulldeck", "list"],
    "fulldeck run --help": ["-m", "fulldeck", "run", "--help"],
    "import typer": ["-c", "import typer"],
    "import torch": ["-c", "import torch"],
}


def cpu_ms(arguments: list[str]) -> float:
    """User and system time of one fresh interpreter, in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name in random.sample(list(COMMANDS), len(COMMANDS)):
            times[name].append(cpu_ms(COMMANDS[name]))
    figures = {
        name: {"median_ms": round(statistics.median(values), 1), "least_ms": round(min(values), 1)}
        for name, values in times.items()
    }
    for name, figure in figures.items():
        print(f"{name:<22}{figure['median_ms']:>8.1f} ms median{figure['least_ms']:>8.1f} ms least")
    write_result("import_cost", {"machine": describe(), "rounds": rounds, "cpu": figures})


if __name__ == "__main__":
    main()
