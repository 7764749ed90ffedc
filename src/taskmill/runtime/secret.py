"""A secret that an installation makes for itself, once, and keeps in a file."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from taskmill.errors import ConfigError

SECRET_MINIMUM: Final = 32
"""Bytes of JWT_SECRET: as many as HS256 mixes in."""


def kept_secret(path: Path) -> bytes:
    """The secret in this file, mode 0600; made when it is not there. Of two that make it at once, one wins, and both
    return its. A crash leaves no half-written file, at most one with another name."""
    try:
        if not path.exists():
            draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
            try:
                with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(secrets.token_urlsafe(48).encode())
                    file.flush()
                    os.fsync(file.fileno())
                os.link(draft, path)
            except FileExistsError:
                pass  # another was faster
            finally:
                draft.unlink(missing_ok=True)
        path.chmod(0o600)
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"TASKMILL_DATA: cannot keep a secret there ({(error.strerror or '').lower()})"
        ) from None
    if len(key) < SECRET_MINIMUM:
        raise ConfigError(
            f"{path}: expected a secret of {SECRET_MINIMUM} bytes: remove the file, a new one is made"
        )
    return key
