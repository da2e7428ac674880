"""Installed distributions: who owns an instruction, and which of its requirements are met."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    entry_points,
    packages_distributions,
    version,
)

from packaging.requirements import Requirement

from fulldeck.catalogue import GROUP


@dataclass(frozen=True)
class Need:
    """One required package: its name, the bounds that are declared, and the version that is here, if any."""

    name: str
    bounds: str
    found: str | None
    met: bool

    @property
    def line(self) -> str:
        """What pip takes to meet it, quoted for a shell."""
        return f'"{self.name}{self.bounds}"' if self.bounds else self.name


def needs(owner: Distribution, extra: str | None = None) -> list[Need]:
    """What `owner` requires on this machine: always, or with one of its extras only."""
    return [_need(one) for one in _requirements(owner, extra)]


def is_installed(name: str) -> bool:
    """Whether the distribution `name` is here."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def missing_packages(owner: Distribution, extra: str) -> list[str]:
    """The packages of `owner`'s extra that are not here in a version that it takes."""
    return [need.name for need in needs(owner, extra) if not need.met]


def owner_of(module: str) -> Distribution:
    """The installed distribution that an instruction's module belongs to."""
    top = module.split(".")[0]
    # packages_distributions does not know editable installs; an entry point knows who brought it.
    for point in entry_points(group=GROUP):
        if point.module == module and point.dist is not None:
            owner: Distribution = point.dist
            return owner
    return distribution("fulldeck" if top == "fulldeck" else packages_distributions()[top][0])


def _requirements(owner: Distribution, extra: str | None) -> Iterator[Requirement]:
    for text in owner.requires or ():
        one = Requirement(text)
        always = one.marker is None or one.marker.evaluate({"extra": ""})
        if extra is None:
            if always:
                yield one
        elif not always and one.marker is not None and one.marker.evaluate({"extra": extra}):
            yield one


def _need(requirement: Requirement) -> Need:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return Need(requirement.name, str(requirement.specifier), None, False)
    met = requirement.specifier.contains(found, prereleases=True)
    return Need(requirement.name, str(requirement.specifier), found, met)
