"""Ids: UUIDv7, 16 bytes, so that rows made together lie together in the primary key."""

from __future__ import annotations

import hashlib
import secrets
import sys
import uuid

if sys.version_info >= (3, 14):
    from uuid import uuid7 as _uuid7
else:
    from uuid_utils import uuid7 as _uuid7


def new_id() -> bytes:
    """A new UUIDv7 as 16 bytes: time-ordered within a process, to the millisecond between processes."""
    return _uuid7().bytes


def id_of(millis: int, seed: bytes) -> bytes:
    """The UUIDv7 of this moment (milliseconds since 1970) that follows from `seed`: the same again for the same two."""
    digest = hashlib.sha256(seed).digest()
    value = millis.to_bytes(6, "big") + digest[:10]
    return value[:6] + bytes([0x70 | value[6] & 0x0F, value[7], 0x80 | value[8] & 0x3F]) + value[9:]


def new_op() -> bytes:
    """A new operation id, 16 random bytes: names one write for ever, so that a resend finds what it did."""
    return secrets.token_bytes(16)


def id_text(raw: bytes) -> str:
    """The id as clients see it: the canonical UUID form."""
    return str(uuid.UUID(bytes=raw))


def parse_id(text: str) -> bytes | None:
    """The 16 bytes of an id in canonical form (any case), or None: a malformed id names no task."""
    if len(text) != 36:
        return None
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return None
    return parsed.bytes if str(parsed) == text.lower() else None
