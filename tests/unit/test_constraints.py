"""What the tests run with is what constraints.txt says, and its licences are known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ggufpack.report.sbom import license_of

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def pinned() -> dict[str, str]:
    """Name → version, of the lines that hold for this Python and machine."""
    lines = (line.partition("#")[0].strip() for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines())
    requirements = [Requirement(line) for line in lines if line]
    return {
        canonicalize_name(found.name): str(found.specifier).removeprefix("==")
        for found in requirements
        if found.marker is None or found.marker.evaluate()
    }


def installed() -> Iterator[Distribution]:
    """ggufpack's dependencies, and theirs: those that are installed, whichever extra wants them."""
    waiting, seen = [("ggufpack", "")], set[tuple[str, str]]()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        if name != "ggufpack" and extra == "":
            yield found
        extras = found.metadata.get_all("Provides-Extra") or [] if name == "ggufpack" else [extra]
        for line in found.requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": e}) for e in {"", *extras}):
                waiting += [(canonicalize_name(wanted.name), e) for e in {"", *wanted.extras}]


def test_every_installed_dependency_has_the_version_that_constraints_say() -> None:
    versions = pinned()
    found = {canonicalize_name(item.metadata["Name"]): item.version for item in installed()}
    assert len(found) > 40
    differing = {name: (version, versions.get(name)) for name, version in found.items()}
    assert {name: pair for name, pair in differing.items() if pair[0].partition("+")[0] != pair[1]} == {}


def test_constraints_hold_exact_versions_and_no_addresses() -> None:
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9._-]+==[^\s;@]+( ; .+)?", line), line
        assert "://" not in line


# read in the distributions: their metadata say nothing
_READ = {
    "atheris": "Apache-2.0",
    "axe-playwright-python": "MIT",
    "cuda-toolkit": "an empty package of NVIDIA's",
}


def test_the_licence_of_every_dependency_is_known() -> None:
    unknown = [item.metadata["Name"] for item in installed() if license_of(item) is None]
    assert set(unknown) <= set(_READ)
