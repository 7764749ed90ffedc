"""The names of Services, for the pods of a cluster without CoreDNS: each question is answered from a file of JSON.

python -m deploy.check.cluster_dns ADDRESS FILE         {"mysql.default.svc.cluster.local": "10.96.0.7"}
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from pathlib import Path

A = 1
NO_SUCH_NAME = 3
SECONDS_TO_KEEP = 5


def serve(address: str, names: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((address, 53))
        while True:
            question, asker = listener.recvfrom(512)
            listener.sendto(answer(question, json.loads(names.read_text(encoding="utf-8"))), asker)


def answer(question: bytes, known: dict[str, str]) -> bytes:
    """RFC 1035, for one question: its address, nothing where another type is asked for, or that there is no such name."""
    number, flags = struct.unpack("!HH", question[:4])
    name, end = _name(question, 12)
    (kind,) = struct.unpack("!H", question[end : end + 2])
    found = known.get(name.lower())
    record = b""
    if found is not None and kind == A:
        # 0xC00C: the name that stands at byte 12.
        record = struct.pack("!HHHIH", 0xC00C, A, 1, SECONDS_TO_KEEP, 4) + socket.inet_aton(found)
    # A response with authority, and what was wished about recursion.
    status = 0x8480 | (flags & 0x0100) | (0 if found is not None else NO_SUCH_NAME)
    return struct.pack("!HHHHHH", number, status, 1, len(record) > 0, 0, 0) + question[12 : end + 4] + record


def _name(message: bytes, at: int) -> tuple[str, int]:
    """What stands there, and where it ends."""
    labels = []
    while (length := message[at]) > 0:
        labels.append(message[at + 1 : at + 1 + length].decode("latin-1"))
        at += 1 + length
    return ".".join(labels), at + 1


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
