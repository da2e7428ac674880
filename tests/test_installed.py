"""Which requirements of a distribution are met."""

from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from fulldeck.installed import missing_packages, needs, owner_of


class Project(Distribution):
    """A distribution with an extra of two packages, one of which is not installed."""

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        lines = ["Name: some-plugin", "Version: 1", "Provides-Extra: all"]
        lines += [
            "Requires-Dist: torch>=99",
            "Requires-Dist: numpy>=1",
            "Requires-Dist: gone; sys_platform == 'x'",
        ]
        lines += [f"Requires-Dist: {name}>=1; extra == 'all'" for name in ("numpy", "no-such-package")]
        return "\n".join(lines)

    def locate_file(self, path: Any) -> Path:
        return Path(path)


def test_the_packages_of_an_extra_that_are_missing() -> None:
    assert missing_packages(Project(), "all") == ["no-such-package"]
    assert missing_packages(Project(), "other") == []
    assert missing_packages(distribution("fulldeck"), "files") == []


def test_versions_are_held_against_the_declared_bounds() -> None:
    torch, numpy = needs(Project())
    assert (torch.name, torch.met, torch.line) == ("torch", False, '"torch>=99"')
    assert numpy.met
    assert numpy.found is not None
    assert all(need.met for need in needs(distribution("fulldeck")))


def test_the_owner_of_a_built_in_instruction() -> None:
    assert owner_of("fulldeck.instructions.inference.onnx_export").name == "fulldeck"
