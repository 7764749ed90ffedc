"""Standard input and pipes: a wait for them ends with Ctrl-C, whenever it comes."""

from __future__ import annotations

import _thread
import io
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from taskmill.cli.reading import Interruptible


@pytest.fixture
def default_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_ctrl_c")
def test_a_ctrl_c_just_before_a_read_is_heard() -> None:
    """The interpreter knows of it, and nothing interrupts the call of the system: as when it comes a moment before it."""
    reading, writing = os.pipe()
    with io.BufferedReader(Interruptible(reading)) as source, os.fdopen(writing, "wb"):
        timer = threading.Timer(0.3, _thread.interrupt_main)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            source.read(1)
        timer.join()


def test_what_is_there_is_read_at_once_and_the_end_is_seen() -> None:
    """As of any file."""
    reading, writing = os.pipe()
    os.write(writing, b"a line\nanother")
    os.close(writing)
    with io.BufferedReader(Interruptible(reading)) as source:
        assert source.read(7) == b"a line\n"
        assert source.read(100) == b"another"
        assert source.read(100) == b""
