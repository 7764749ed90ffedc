"""Prints the licences of all Python packages of the environment that runs it: the image carries them (Dockerfile).

Standard library only: nothing else is there when the image is built.
"""

from __future__ import annotations

import re
from importlib import metadata

OURS = "taskmill"
A_LICENCE = re.compile(r"(licen[cs]e|copying|notice|authors)[^/]*$|/licenses/", re.IGNORECASE)
INTRODUCTION = """Taskmill itself is under the MIT licence, see LICENSE. Beside it, this image holds the Python packages below, each under
the licence that follows its name. Of the operating system and of Python, see /usr/share/doc/*/copyright and
https://docs.python.org/3/license.html.
"""


def notices() -> str:
    packages = sorted(metadata.distributions(), key=lambda package: package.name.lower())
    return "\n".join([INTRODUCTION, *(notice(package) for package in packages if package.name != OURS)])


def notice(package: metadata.Distribution) -> str:
    title = f"{package.name} {package.version}: {terms(package)}"
    return "\n".join(["=" * 100, title, "=" * 100, *(texts(package) or ["(no text in the package)"]), ""])


def terms(package: metadata.Distribution) -> str:
    """In a few words, as the package says it."""
    about = package.metadata
    said = [text.strip() for name in ("License-Expression", "License") for text in about.get_all(name) or []]
    short = next((text.partition("\n")[0] for text in said if text), "")
    classifiers = about.get_all("Classifier") or []
    named = [text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License ::")]
    return short or ", ".join(named) or "not said"


def texts(package: metadata.Distribution) -> list[str]:
    files = [
        file for file in package.files or [] if ".dist-info/" in str(file) and A_LICENCE.search(str(file))
    ]
    return [f"-- {file}\n\n{file.read_text('utf-8')}" for file in sorted(files)]


if __name__ == "__main__":
    print(notices())
