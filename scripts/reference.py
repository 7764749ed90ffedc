"""Writes docs/reference/ from the code; `--check` says which page is stale instead (exit 1).

settings from the settings model, the GraphQL schema from Strawberry, metrics from the probes, errors from the tree,
states from the transition table, who may do what from the fields of the schema, the command line from its app.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "reference"
NOTE = "<!-- Written by scripts/reference.py from the code: `make reference`. -->\n\n"
SETTINGS_NOTE = (
    "From the environment, then from a `.env` file in the working folder. A wrong value ends the start with one line "
    "that names the setting and what it expects."
)
ERRORS_NOTE = (
    "GraphQL answers carry the code in `extensions.code`, with a `requestId`. How a run failed is told by the error of "
    "the task, and of each of its `runs`. The document itself is refused with `GRAPHQL_PARSE_FAILED` (its syntax) or "
    "`GRAPHQL_VALIDATION_FAILED` (the schema has no such thing)."
)

ROLES_NOTE = (
    "What is empty is refused: `UNAUTHENTICATED` without a login (nobody), `FORBIDDEN` with another role. USER: the own tasks, "
    "schedules and keys; what is another's is `NOT_FOUND`. ADMIN: all of them. An API key has the role that it was made "
    "with. A field that says nothing of roles is for no one."
)
CLI_NOTE = (
    "How to use it: [command line](../howto/command-line.md). An error is one line on standard error; what a command prints "
    "on standard output is its result."
)


def settings() -> str:
    from taskmill.settings import Settings, setting_names

    names = setting_names()
    lines = [
        "# Settings",
        "",
        NOTE.strip(),
        "",
        SETTINGS_NOTE,
        "",
        "| Variable | Expects | Default | What it is |",
        "| --- | --- | --- | --- |",
    ]
    for field, info in Settings.model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        default = "" if info.default is None or info.default_factory is not None else _shown(info.default)
        variables = ", ".join(f"`{n}`" for n in names[field])
        lines.append(f"| {variables} | {extra.get('expects', '')} | {default} | {info.description or ''} |")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    from datetime import timedelta

    if isinstance(value, timedelta):
        return f"`{int(value.total_seconds())}s`" if value.total_seconds() % 86400 else f"`{value.days}d`"
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`" if value else ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def schema() -> str:
    from taskmill.api.schema.build import build_schema

    return (
        "# Written by scripts/reference.py from the code: `make reference`.\n\n"
        + build_schema(introspection=True).as_str()
        + "\n"
    )


def metrics() -> str:
    from prometheus_client import CollectorRegistry

    from taskmill.runtime.probes import Probes

    lines = [
        "# Metrics",
        "",
        NOTE.strip(),
        "",
        "| Metric | Kind | Labels | What it is |",
        "| --- | --- | --- | --- |",
    ]
    registry = CollectorRegistry()
    probes = Probes(registry)
    for name, metric in sorted(vars(probes).items()):
        kind = getattr(metric, "_type", None)
        if kind is None:
            continue
        shown = f"{metric._name}_total" if kind == "counter" else metric._name
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        lines.append(f"| `{shown}` | {kind} | {labels} | {metric._documentation} |")
        assert name  # the attribute's name is the metric's
    lines += ["", "And `process_*` and `python_*` of the Prometheus client."]
    return "\n".join(lines) + "\n"


def errors() -> str:
    from taskmill import errors as tree

    lines = [
        "# Errors",
        "",
        NOTE.strip(),
        "",
        ERRORS_NOTE,
        "",
        "| Code | Class | When |",
        "| --- | --- | --- |",
    ]
    lines += [f"| `{code}` | `{name}` | {about} |" for code, name, about in _errors(tree.TaskmillError)]
    return "\n".join(lines) + "\n"


def _errors(cls: type) -> Iterator[tuple[str, str, str]]:
    about = (inspect.getdoc(cls) or "").split("\n")[0] if "__doc__" in vars(cls) and cls.__doc__ else ""
    yield cls.code, cls.__name__, about  # type: ignore[attr-defined]
    children: list[type] = cls.__subclasses__()
    for child in children:
        if child.__module__ == cls.__module__:
            yield from _errors(child)


def states() -> str:
    from taskmill.model.state import TRANSITIONS

    lines = ["# States", "", NOTE.strip(), "", "```mermaid", "stateDiagram-v2"]
    for t in TRANSITIONS:
        for target in t.targets:
            source = t.source.name if t.source is not None else "[*]"
            lines.append(f"    {source} --> {target.name}: {t.verb.value}")
        if not t.targets:
            assert t.source is not None
            lines.append(f"    {t.source.name} --> [*]: {t.verb.value}")
    lines += ["```", "", "| From | Verb | To | When |", "| --- | --- | --- | --- |"]
    for t in TRANSITIONS:
        source = t.source.name if t.source is not None else "(new)"
        lines.append(
            f"| {source} | {t.verb.value} | {', '.join(s.name for s in t.targets) or '(deleted)'} | {t.when} |"
        )
    return "\n".join(lines) + "\n"


def roles() -> str:
    from taskmill.api.schema.build import build_schema
    from taskmill.api.schema.roles import fields

    names = ("nobody", "USER", "WORKER", "ADMIN")
    lines = ["# Who may do what", "", NOTE.strip(), "", ROLES_NOTE, ""]
    lines += [f"| Operation | {' | '.join(names)} |", "| --- |" + " :-: |" * len(names)]
    types: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    core = build_schema(introspection=True)._schema
    for parent, name, _, allowed in fields(core):
        has = {"nobody" if role is None else role.name for role in allowed}
        if parent in (core.query_type, core.mutation_type, core.subscription_type):
            marks = " | ".join("yes" if role in has else "" for role in names)
            lines.append(f"| {parent.name.lower()} `{name}` | {marks} |")
        else:
            types.setdefault((parent.name, tuple(n for n in names if n in has)), []).append(name)
    lines += ["", "## Fields of types", "", "| Type | Fields | For |", "| --- | --- | --- |"]
    for (parent_name, those), of in sorted(types.items()):
        shown = ", ".join(f"`{name}`" for name in of)
        lines.append(f"| `{parent_name}` | {shown} | {', '.join(those) or 'no one'} |")
    return "\n".join(lines) + "\n"


def cli() -> str:
    from taskmill.cli import STATUSES
    from taskmill.cli.commands import app

    lines = [
        "# Command line",
        "",
        NOTE.strip(),
        "",
        CLI_NOTE,
        "",
        "| Exit status | What it says |",
        "| ---: | --- |",
    ]
    lines += [f"| {status} | {about} |" for status, about in STATUSES.items()]
    text = app.generate_docs(heading_level=2).replace("```console", "```text")
    return "\n".join(lines) + "\n\n" + text.strip() + "\n"


WRITERS = {
    "settings.md": settings,
    "schema.graphql": schema,
    "metrics.md": metrics,
    "errors.md": errors,
    "states.md": states,
    "roles.md": roles,
    "cli.md": cli,
}


def stale() -> list[str]:
    """The pages that differ from what the code says."""
    return [
        name
        for name, write in WRITERS.items()
        if not (PAGES / name).exists() or (PAGES / name).read_text() != write()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        names = stale()
        for name in names:
            print(f"docs/reference/{name} is stale: run `make reference`")
        return 1 if names else 0
    PAGES.mkdir(parents=True, exist_ok=True)
    for name, write in WRITERS.items():
        (PAGES / name).write_text(write())
    return 0


if __name__ == "__main__":
    sys.exit(main())
