"""Cron: against an oracle that walks minute by minute, at each change of the clocks; what is refused; the words."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from taskmill.model.cron import Cron, parse
from tests.model.cron_oracle import ZONES, edges, fires, walk

DAYS = 2
TICK = timedelta(microseconds=1)


def product(cron: Cron, start: datetime, end: datetime) -> list[datetime]:
    """All times in [start, end), one after the other."""
    found = []
    at = cron.after(start - TICK)
    while at is not None and at < end:
        found.append(at)
        at = cron.after(at)
    return found


def around(zone: str) -> list[datetime]:
    """Beginnings of walks that hold a change of the clocks, both ways; UTC has none."""
    return [e.replace(hour=0) - timedelta(hours=12) for e in edges(zone)] or [datetime(2028, 2, 28)]


# ---- expressions ---------------------------------------------------------------------------------------------------


def field(low: int, high: int, near: list[int]) -> st.SearchStrategy[str]:
    """`*`, steps, ranges, lists; often the numbers where clocks are changed."""
    number = st.one_of(st.sampled_from(near), st.integers(low, high))
    span = st.tuples(number, number).map(lambda p: f"{min(p)}-{max(p)}")
    step = st.integers(1, max(2, high // 2))
    return st.one_of(
        st.just("*"),
        number.map(str),
        span,
        st.tuples(st.just("*"), step).map(lambda p: f"{p[0]}/{p[1]}"),
        st.tuples(span, step).map(lambda p: f"{p[0]}/{p[1]}"),
        st.tuples(number, step).map(lambda p: f"{p[0]}/{p[1]}"),
        st.lists(number, min_size=2, max_size=4).map(lambda ns: ",".join(map(str, ns))),
    )


minutes = field(0, 59, [0, 1, 15, 29, 30, 31, 45, 59])
hours = field(0, 23, [0, 1, 2, 3])
days = st.one_of(st.just("*"), st.just("*"), field(1, 28, [1, 28]))
months = st.one_of(st.just("*"), st.just("*"), st.just("*"), field(1, 12, [2, 3, 4, 10, 11]))
weekdays = st.one_of(st.just("*"), st.just("*"), field(0, 7, [0, 6, 7]))
expressions = st.tuples(minutes, hours, days, months, weekdays).map(" ".join)


@pytest.mark.parametrize("zone", ZONES)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=(
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ),  # an expression is short as it is: shrinking takes minutes
)
@given(expression=expressions, data=st.data())
def test_it_fires_when_the_oracle_says_so_at_both_edges(
    zone: str, expression: str, data: st.DataObject
) -> None:
    """Any expression, over two days that hold a change of the clocks: the same times, none more, none twice."""
    start = data.draw(st.sampled_from(around(zone)))
    try:
        cron = parse(expression, zone)
    except ValueError:
        assert not any(fires(expression, walk(zone, s, DAYS)) for s in around(zone))
        return
    expected = fires(expression, walk(zone, start, DAYS))
    end = start + timedelta(days=DAYS)
    assert product(cron, start, end) == expected, (zone, expression, start)
    assert cron.newest(start, end - TICK, 7) == expected[-7:]


EDGES = [
    "0 0 * * *", "30 0 * * *", "0 1 * * *", "30 1 * * *", "59 1 * * *", "0 2 * * *", "1 2 * * *", "15 2 * * *",
    "30 2 * * *", "59 2 * * *", "0 3 * * *", "1 3 * * *", "30 2,3 * * *", "0,30 2 * * *", "0-59 2 * * *",
    "0,15,30,45 1-3 * * *", "*/30 2 * * *", "*/15 * * * *", "* * * * *", "* 2 * * *", "* 3 * * *", "* 1 * * *",
    "0 * * * *", "30 * * * *", "15 */2 * * *", "0 */3 * * *", "30 2 * * 0", "30 2 28 3 *", "*/20 0-4 * * SUN",
]  # fmt: skip


@pytest.mark.parametrize("zone", ZONES)
def test_the_times_where_clocks_are_changed(zone: str) -> None:
    """Every time of the night that people write, at every change of two years."""
    for expression in EDGES:
        plain = expression.replace("SUN", "0")
        for start in around(zone):
            expected = fires(plain, walk(zone, start, DAYS))
            found = product(parse(expression, zone), start, start + timedelta(days=DAYS))
            assert found == expected, (expression, start)


@pytest.mark.parametrize("zone", ZONES[:-1])
def test_it_may_be_asked_at_any_minute(zone: str) -> None:
    """From within an hour that comes twice, too: the first time that the oracle names after that minute."""
    for expression in ("30 2 * * *", "0,30 1,2 * * *", "*/20 1-2 * * *"):
        cron = parse(expression, zone)
        for start in around(zone):
            minutes = walk(zone, start, DAYS)
            due = fires(expression, minutes)
            for minute in minutes[: -24 * 60 : 5]:
                assert cron.after(minute.at) == next(at for at in due if at > minute.at), (expression, minute)


def test_the_oracle_knows_the_four_zones_of_the_policy() -> None:
    """Each has changes of both kinds in the years that are walked; Lord Howe's are of half an hour."""
    for zone in ZONES[:-1]:
        jumps = [max(len(m.jumped) for m in walk(zone, s, DAYS)) for s in around(zone)]
        again = [sum(m.again for m in walk(zone, s, DAYS)) for s in around(zone)]
        half = zone == "Australia/Lord_Howe"
        assert max(jumps) == (30 if half else 60), zone
        assert max(again) == (30 if half else 60), zone


# ---- what is refused -----------------------------------------------------------------------------------------------

REFUSED = [
    "* * * * * *", "@every 1ms", "@daily", "*/0 * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *",
    "* * * 13 *", "* * * * 8", "0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6 *", "0 0 */31 * MON#5", "5-1 * * * *",
    "* * * *", "", "   ", "*" * 10_000, "1," * 50_000 + "1 * * * *", "* * * * MON#6", "* * * * MON#1/2", "* * * * L",
    "* * 1/L * *", "a * * * *", "- * * * *", ", * * * *", "1,,2 * * * *", "/ * * * *", "1/ * * * *", "-1 * * * *",
    "1.5 * * * *", "1e1 * * * *", "\u0661 * * * *", "\u017fUN * * * *", "* * * * \x00", "9" * 300,
    "* * * FOO *", "* * * * MON-", "**/2 * * * *", "*-5 * * * *", "1-2-3 * * * *", "*/5/5 * * * *",
    "99999999999999999999 * * * *",
]  # fmt: skip


@pytest.mark.parametrize("expression", REFUSED, ids=lambda e: repr(e[:20]))
def test_what_is_no_expression_or_never_fires_is_refused_with_a_sentence(expression: str) -> None:
    """Rows 60: never another error, never an expression that nothing comes of."""
    with pytest.raises(ValueError, match=r"^cron: ") as refused:
        parse(expression)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "zone", ["Mars/Phobos", "../../etc/passwd", "", "utc", "europe/berlin", "UTC ", "Europe", "/UTC", "zone.tab", "a" * 9999]
)  # fmt: skip
def test_a_zone_that_is_not_in_the_database_is_refused(zone: str) -> None:
    """Row 61: names are compared with a list; no path is looked up."""
    with pytest.raises(ValueError, match=r"^timezone: "):
        parse("* * * * *", zone)


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    """Nothing but a ValueError, and what is taken fires."""
    try:
        cron = parse(text)
    except ValueError:
        return
    assert cron.after(datetime(2026, 1, 1)) is not None


@settings(max_examples=40, deadline=None)
@given(st.from_regex(r"[0-9A-Z*,/#-]{1,8}( [0-9LW*,/#-]{1,6}){4}", fullmatch=True))
def test_whatever_looks_like_an_expression_is_one_or_is_refused(text: str) -> None:
    """The same with texts that come closer."""
    try:
        cron = parse(text, "Europe/Berlin")
    except ValueError:
        return
    first = cron.after(datetime(2026, 1, 1))
    assert first is not None
    assert cron.newest(datetime(2026, 1, 1), first, 5) == [first]


# ---- what it means -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "first"),
    [
        ("0 9 * * MON", datetime(2026, 1, 5, 9)),
        ("0 9 * * mon-fri", datetime(2026, 1, 1, 9)),
        ("0 0 L * *", datetime(2026, 1, 31)),
        ("0 0 LW * *", datetime(2026, 1, 30)),
        ("0 0 * * FRI#2", datetime(2026, 1, 9)),
        ("0 0 * * 5L", datetime(2026, 1, 30)),
        ("0 0 29 2 *", datetime(2028, 2, 29)),
        ("0 0 * 2 MON#5", datetime(2044, 2, 29)),
        ("0 0 13 * FRI", datetime(2026, 1, 2)),
        ("5-5/2 * * * *", datetime(2026, 1, 1, 0, 5)),
        ("5/20 * * * *", datetime(2026, 1, 1, 0, 5)),
    ],
)
def test_names_last_days_and_rare_days(expression: str, first: datetime) -> None:
    """Debian's rules: a day of the month or of the week, when neither begins with a star."""
    assert parse(expression).after(datetime(2026, 1, 1) - TICK) == first


def test_it_comes_after_the_time_given_whatever_its_fraction() -> None:
    """A time itself is not after itself, a microsecond before it is."""
    cron, at = parse("0 9 * * *"), datetime(2026, 5, 5, 9)
    assert cron.after(at - TICK) == at
    assert cron.after(at) == at + timedelta(days=1)
    assert cron.after(at + TICK) == at + timedelta(days=1)


def test_the_calendar_ends() -> None:
    """No time, and no error, beyond the years that Python has."""
    for zone in ZONES:
        assert parse("* * * * *", zone).after(datetime(9999, 12, 31, 23, 59)) is None
        assert parse("0 3 * * *", zone).after(datetime(9999, 12, 31, 23, 59)) is None
    assert parse("0 0 29 2 *").upcoming(datetime(9989, 1, 1), 5) == []


@pytest.mark.parametrize("expression", ["* * * * *", "* * * 1 *", "*/7 3 * * *", "0 0 * * *", "30 2 * * SUN"])
def test_the_newest_of_a_long_stretch_are_the_last_of_all_of_them(expression: str) -> None:
    """Found without a walk through all of it; the same as with one."""
    cron, end = parse(expression, "Europe/Berlin"), datetime(2026, 11, 3, 4, 5, 6, 7)
    start = end - timedelta(days=4)
    assert cron.newest(start, end, 100) == product(cron, start, end)[-100:]
    longest = cron.newest(end - timedelta(days=3650), end, 100)
    assert len(longest) == 100
    assert longest == product(cron, longest[0], end)


# ---- in words ------------------------------------------------------------------------------------------------------


def words(expression: str, zone: str, start: datetime, n: int = 3) -> dict[str, str]:
    """Local time → note, of those that have one."""
    found = parse(expression, zone).upcoming(start, n)
    return {f.local.isoformat(timespec="minutes"): f.note for f in found if f.note is not None}


def test_a_time_that_does_not_exist_is_told_with_when_it_runs() -> None:
    """The words of the issue."""
    assert words("30 2 * * *", "Europe/Berlin", datetime(2027, 3, 27)) == {
        "2027-03-28T03:00+02:00": "02:30 does not exist on 2027-03-28 in Europe/Berlin: runs at 03:00"
    }
    assert words("10 2 * * *", "Australia/Lord_Howe", datetime(2027, 10, 1)) == {
        "2027-10-03T02:30+11:00": "02:10 does not exist on 2027-10-03 in Australia/Lord_Howe: runs at 02:30"
    }
    assert words("*/30 2 * * *", "America/New_York", datetime(2027, 3, 13, 12)) == {
        "2027-03-15T02:00-04:00": "02:00 does not exist on 2027-03-14 in America/New_York: not run"
    }


def test_a_time_that_comes_twice_is_told_with_how_often_it_runs() -> None:
    """Once for a fixed time; as often as it comes for anything else."""
    assert words("30 2 * * *", "Europe/Berlin", datetime(2027, 10, 29)) == {
        "2027-10-31T02:30+02:00": "02:30 comes twice on 2027-10-31 in Europe/Berlin: runs once, the first time"
    }
    assert words("30 * * * *", "America/New_York", datetime(2027, 11, 7, 4)) == {
        "2027-11-07T01:30-04:00": "01:30 comes twice on 2027-11-07 in America/New_York: "
        "runs both times, this is the first",
        "2027-11-07T01:30-05:00": "01:30 comes twice on 2027-11-07 in America/New_York: "
        "runs both times, this is the second",
    }


@pytest.mark.parametrize("zone", ZONES)
def test_the_words_are_there_exactly_where_the_clocks_do_something(zone: str) -> None:
    """A note at each fire that the wall shows twice, or that stands for what it jumped over, and at no other."""
    for expression in ("30 2 * * *", "15 * * * *"):
        cron = parse(expression, zone)
        for start in around(zone):
            minutes = walk(zone, start, DAYS)
            walls = Counter(m.wall for m in minutes)
            jumps = [m.at for m in minutes if cron.fixed and fires(expression, [m]) and m.jumped]
            told = [m.at for m in minutes if m.at in jumps or walls[m.wall] > 1]
            found = cron.upcoming(start - TICK, 60)
            noted = [
                f.at
                for f in found
                if f.note is not None and f.at <= minutes[-1].at and "not run" not in f.note
            ]
            due = set(fires(expression, minutes))
            # A jump counts only when the schedule has a time inside of it.
            expected = [
                at for at in told if at in due and (at not in jumps or swallowed(expression, zone, at))
            ]
            assert noted == expected, (expression, start)


def swallowed(expression: str, zone: str, at: datetime) -> bool:
    [minute] = [m for m in walk(zone, at, 1) if m.at == at]
    return any(fires(expression, [type(minute)(at, wall, False, ())]) for wall in minute.jumped)
