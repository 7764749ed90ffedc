"""Texts of PromQL that the panels share. Counters are read as rates over `$__rate_interval`, and summed over processes."""

from __future__ import annotations

from typing import Final

ALL: Final = 'job=~"$job"'
"""Of all processes that were chosen."""
EACH: Final = 'job=~"$job", instance=~"$instance"'
"""On the dashboards where one process can be chosen."""
RATE: Final = "$__rate_interval"
CREATED: Final = "tasks_created_total"
COMPLETED: Final = "tasks_completed_total"
FAILED: Final = "tasks_failed_total"


def total(expression: str, by: str = "") -> str:
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"


def per_second(metric: str, *, by: str = "", where: str = ALL, window: str = RATE) -> str:
    return total(f"rate({metric}{{{where}}}[{window}])", by)


def ended(window: str = RATE) -> str:
    """Tasks per second that completed or failed."""
    return f"({per_second(COMPLETED, window=window)} + {per_second(FAILED, window=window)})"


def within_range(metric: str, where: str = ALL) -> str:
    """How many there were in the time that the dashboard shows."""
    return total(f"increase({metric}{{{where}}}[$__range])")


def percentile(share: float, metric: str, *, by: str = "", where: str = ALL, window: str = RATE) -> str:
    """Estimated within a bucket of the histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, {per_second(f'{metric}_bucket', by=labels, where=where, window=window)})"


def mean(metric: str, *, by: str = "", where: str = ALL, window: str = RATE) -> str:
    """Nothing where nothing was observed, rather than 0."""
    seconds = per_second(f"{metric}_sum", by=by, where=where, window=window)
    times = per_second(f"{metric}_count", by=by, where=where, window=window)
    return f"{seconds} / ({times} > 0)"


def buckets(metric: str, where: str = ALL) -> str:
    """For a heat map: how many were observed in each bucket."""
    return total(f"increase({metric}_bucket{{{where}}}[{RATE}])", "le")


def measured(metric: str, by: str, where: str = ALL) -> str:
    """A gauge that the leading scheduler measures for all: while the lead changes, two may say it."""
    return f"max by ({by}) ({metric}{{{where}}})"


def oldest(where: str = ALL) -> str:
    """Of each queue; 0 where nothing waits."""
    size = total(measured("queue_size", "queue, priority", where), "queue")
    return f"{measured('queue_oldest_seconds', 'queue', where)} or 0 * {size}"


def smooth(metric: str, by: str = "", where: str = ALL) -> str:
    """A gauge that jumps, as its mean since the point before: what a scrape happens to see says little."""
    return total(f"avg_over_time({metric}{{{where}}}[{RATE}])", by)


def ratio(part: str, whole: str) -> str:
    """0 while nothing happens, not NaN."""
    return f"{part} / clamp_min({whole}, 1e-9)"
