"""`make sbom`: dist/sbom.cdx.json, the Python packages of the image as CycloneDX, from requirements.lock.

Versions and hashes are the lock's, as far as they concern the image: CPython 3.13 on Linux. Licences and who needs
whom are read from what is installed here by the same names. The same lock makes the same file.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from importlib import metadata

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.lock import HASH, PIN, ROOT, RUN, Wanted
from scripts.notices import terms
from taskmill import __version__

PLACE = ROOT / "dist" / "sbom.cdx.json"
LEFT_OUT = {"pillow"}
"""By the Dockerfile, see there."""
IMAGE = {
    "python_version": "3.13",
    "python_full_version": "3.13.0",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "sys_platform": "linux",
    "os_name": "posix",
}


@dataclass
class Locked:
    name: str
    version: str
    hashes: list[str] = field(default_factory=list)


def locked() -> list[Locked]:
    """What the image installs, without what the lock has for other platforms."""
    found, current = [], None
    for line in RUN.read_text(encoding="utf-8").splitlines():
        if pin := PIN.fullmatch(line):
            current = Locked(canonicalize_name(pin["name"]), pin["version"])
            if concerns_image(pin["marker"]) and current.name not in LEFT_OUT:
                found.append(current)
        elif current is not None and HASH.fullmatch(line):
            current.hashes += re.findall("[0-9a-f]{64}", line)
    return found


def concerns_image(marker: str | None) -> bool:
    text = (marker or "").removeprefix(" ; ")
    return not text or Marker(text).evaluate({**IMAGE, "extra": ""})


def needs(requirements: list[str]) -> set[str]:
    """The names of direct dependencies, those of extras too: of all these, only what is locked becomes an edge."""
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def component(name: str, version: str, kind: ComponentType, licence: str, hashes: list[str]) -> Component:
    purl = PackageURL("pypi", name=name, version=version)
    return Component(
        type=kind,
        name=name,
        version=version,
        purl=purl,
        bom_ref=purl.to_string(),
        licenses=[LicenseFactory().make_from_string(licence)],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in hashes],
    )


def bom() -> Bom:
    packages = locked()
    parts = {
        each.name: component(
            each.name,
            each.version,
            ComponentType.LIBRARY,
            terms(metadata.distribution(each.name)),
            each.hashes,
        )
        for each in packages
    }
    project = component("taskmill", __version__, ComponentType.APPLICATION, "MIT", [])
    made = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, __version__ + RUN.read_text(encoding="utf-8")))
    made.metadata.component = project
    made.components.update(parts.values())
    made.register_dependency(project, [parts[name] for name in needs(Wanted.read().run) if name in parts])
    for each in packages:
        wanted = needs(metadata.requires(each.name) or [])
        made.register_dependency(parts[each.name], [parts[name] for name in wanted if name in parts])
    return made


def text() -> str:
    made = bom()
    made.metadata.timestamp = None  # type: ignore[assignment]
    return make_outputter(made, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2) + "\n"


if __name__ == "__main__":
    PLACE.parent.mkdir(exist_ok=True)
    PLACE.write_text(text(), encoding="utf-8")
    print(f"{PLACE.relative_to(ROOT)}: {len(locked())} packages")
