"""The lock file pins every package that pyproject.toml asks for, in a version that it allows."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = [
    line for line in (ROOT / "requirements.lock").read_text().splitlines() if line[:1] not in "#"
]


@pytest.mark.parametrize("line", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])
def test_every_requirement_is_pinned(line: str) -> None:
    requirement = Requirement(line)
    pins = dict(pin.split("==") for pin in LOCK)
    assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_the_lock_holds_pins_and_no_sources() -> None:
    for line in LOCK:
        name, version = line.split("==")
        assert name == canonicalize_name(name)
        assert version.replace(".", "").replace("post", "").isalnum()
