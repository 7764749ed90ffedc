"""Finding the user's app by name."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

from taskmill.app import Taskmill
from taskmill.errors import ConfigError


def load_app(name: str) -> Taskmill:
    """Imports `module:attribute`, from the working folder or PYTHONPATH. ConfigError, in one line, when it cannot."""
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute) or "/" in name:
        raise ConfigError(f"app {name!r}: write it as module:attribute, for example tasks:app")
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            where = "in the working folder or on PYTHONPATH"
            raise ConfigError(f"app {name!r}: there is no module {error.name!r} {where}") from None
        raise ConfigError(f"app {name!r}: {_where(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"app {name!r}: {error.message}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 (the user's module may fail in any way)
        raise ConfigError(f"app {name!r}: {_where(error)}") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"app {name!r}: {module_name} has no {attribute!r}")
        found = getattr(found, part)
    if not isinstance(found, Taskmill):
        raise ConfigError(f"app {name!r} is not a Taskmill but of type {type(found).__name__}")
    return found


def _where(error: BaseException) -> str:
    """The error in one line, with the last line of the user's code that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    text = " ".join(str(error).split())[:300]
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SyntaxError) or not frames:
        return said
    return f"{said} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
