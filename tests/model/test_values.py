"""Ids, clock, states: small values with exact rules."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskmill.model import clock, ids
from taskmill.model.state import TERMINAL, TRANSITIONS, Priority, Status, Verb, allowed

naive = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31))


def test_ids_of_a_process_grow() -> None:
    """New ids are UUIDv7 and each is larger than the one before, also within a millisecond."""
    made = [ids.new_id() for _ in range(2000)]
    assert made == sorted(set(made))
    assert {uuid.UUID(bytes=i).version for i in made} == {7}


@given(st.binary(min_size=16, max_size=16))
def test_an_id_survives_its_text(raw: bytes) -> None:
    """Bytes to text and back, in any case of letters."""
    text = ids.id_text(raw)
    assert ids.parse_id(text) == ids.parse_id(text.upper()) == raw


@given(st.text(max_size=50) | st.from_regex(r"\A[{(]?[0-9a-fA-F-]{30,38}[)}]?\Z"))
def test_what_is_no_id_is_none(text: str) -> None:
    """Only the canonical form is an id: no braces, no urn, no missing dashes, never an exception."""
    parsed = ids.parse_id(text)
    assert parsed is None or ids.id_text(parsed) == text.lower()


@pytest.mark.parametrize("form", ["{%s}", "urn:uuid:%s", " %s", "%s\n"])
def test_other_spellings_of_a_uuid_are_no_id(form: str) -> None:
    """What uuid.UUID takes beyond the canonical form is refused."""
    text = ids.id_text(ids.new_id())
    assert ids.parse_id(form % text) is None
    assert ids.parse_id(text.replace("-", "")) is None


def test_operation_ids_do_not_repeat() -> None:
    """16 random bytes each."""
    made = {ids.new_op() for _ in range(1000)}
    assert len(made) == 1000
    assert {len(op) for op in made} == {16}


@given(naive)
def test_micros_are_exact(at: datetime) -> None:
    """To microseconds and back without a float in between."""
    assert clock.from_micros(clock.micros(at)) == at


@given(naive, st.integers(-23, 23))
def test_to_utc_takes_the_zone_away(at: datetime, hours: int) -> None:
    """An aware time becomes the naive UTC time of the same moment."""
    if not datetime(1971, 1, 1) < at < datetime(9999, 1, 1):
        return
    zone = timezone(timedelta(hours=hours))
    inside = clock.to_utc(at.replace(tzinfo=zone))
    assert inside.tzinfo is None
    assert inside.replace(tzinfo=UTC) == at.replace(tzinfo=zone)


def test_iso_is_what_clients_see() -> None:
    """UTC with Z and milliseconds."""
    assert clock.iso(datetime(2026, 11, 24, 9)) == "2026-11-24T09:00:00.000Z"


def test_boottime_goes_forward() -> None:
    """Two looks are in order, and it runs with the monotonic clock."""
    first = clock.boottime()
    time.sleep(0.01)
    assert 0 < clock.boottime() - first < 10


def test_numbers_in_sql_keep_their_meaning() -> None:
    """What is stored may never be renumbered."""
    assert {s.name: int(s) for s in Status} == {
        "PENDING": 1,
        "QUEUED": 2,
        "PROCESSING": 3,
        "COMPLETED": 4,
        "FAILED": 5,
        "CANCELLED": 6,
    }
    assert [p.name for p in sorted(Priority)] == ["CRITICAL", "HIGH", "NORMAL", "LOW"]


def test_nothing_leaves_completed() -> None:
    """COMPLETED ends only by retention; FAILED and CANCELLED leave by redrive, FAILED also by cancel."""
    ways = {(t.source, t.verb) for t in TRANSITIONS if t.source in TERMINAL and t.targets}
    assert ways == {
        (Status.FAILED, Verb.CANCEL),
        (Status.FAILED, Verb.REDRIVE),
        (Status.CANCELLED, Verb.REDRIVE),
    }


def test_processing_is_entered_by_claim_alone() -> None:
    """Only claim moves a task into PROCESSING, and only from QUEUED."""
    ways = {
        (t.source, t.verb)
        for t in TRANSITIONS
        if Status.PROCESSING in t.targets and t.source is not Status.PROCESSING
    }
    assert ways == {(Status.QUEUED, Verb.CLAIM)}
    assert not allowed(Status.PENDING, Verb.CLAIM, Status.PROCESSING)
